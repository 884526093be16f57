#!/usr/bin/env bash
# Can every board install the agent without a compiler? Resolves the extra edge to wheels for Linux aarch64, for each Python
# that is supported, downloads nothing but what pip reads, and prints what the wheels weigh: scripts/edge-wheels.sh
set -euo pipefail
cd "$(dirname "$0")/.."
pip=.venv/bin/pip
mapfile -t wanted < <(.venv/bin/python - <<'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"]["edge"]))
PY
)
for version in 3.11 3.12 3.13; do
    report=$(mktemp)
    "$pip" install --quiet --dry-run --ignore-installed --target "$report.target" --report "$report" -c constraints.txt \
        --only-binary=:all: --implementation cp --python-version "$version" --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "${wanted[@]}"
    .venv/bin/python - "$report" "$version" <<'PY'
import json, sys
found = json.load(open(sys.argv[1]))["install"]
names = [item["download_info"]["url"].rpartition("/")[2] for item in found]
foreign = [name for name in names if not name.endswith(("aarch64.whl", "any.whl"))]
assert found and not foreign, foreign
print(f"Python {sys.argv[2]}, aarch64: {len(names)} wheels: " + ", ".join(sorted(name.split("-")[0] for name in names)))
PY
    rm -f "$report"
done
