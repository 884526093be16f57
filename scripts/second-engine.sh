#!/usr/bin/env bash
# Do the engine's tests pass on the second engine, too? onnxruntime-training has the import name of onnxruntime, so it
# gets an environment of its own, which takes everything else from the first: scripts/second-engine.sh [TEST...]
#
# Where the engine can't be had (another processor, no network) it says so and passes, but fails where CI is true.
set -euo pipefail
cd "$(dirname "$0")/.."
first=.venv second=.venv-training version=1.19.2

unavailable() {
    echo "second-engine: skipped: $1"
    [ "${CI:-}" = true ] && exit 1 || exit 0
}

if ! "$second/bin/python" -c "import onnxruntime, sys; sys.exit(onnxruntime.__version__ != '$version')" 2>/dev/null; then
    rm -rf "$second"
    "$first/bin/python" -m venv --without-pip "$second"
    "$first/bin/pip" --python "$second/bin/python" install --quiet --no-deps "onnxruntime-training-cpu==$version" ||
        unavailable "no onnxruntime-training-cpu $version for $(uname -sm) and $("$first/bin/python" --version)"
    site=$("$second/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    "$first/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" >"$site/first.pth"
    echo "$PWD/src" >"$site/lamina.pth" # the first environment's own file of this kind is not read from here
fi
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/test_graph_{rules,training,shapes,random}.py
    tests/test_{trainer,engine,learner,input_side,exactness}.py)
OMP_NUM_THREADS=1 "$second/bin/python" -m pytest -q -n logical --maxprocesses 4 --dist worksteal -m "not slow" \
    -p no:cacheprovider "${tests[@]}"
