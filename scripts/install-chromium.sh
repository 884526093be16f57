#!/usr/bin/env bash
# Install Chromium, and playwright into .venv, for the dashboard's tests. Does nothing where both are there.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    command -v apt-get >/dev/null || { echo "install-chromium: no apt-get here; install Chromium by hand" >&2; exit 1; }
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
fi
.venv/bin/python -c "import playwright" 2>/dev/null || .venv/bin/python -m pip install -q -c constraints.txt playwright
