#!/usr/bin/env bash
# Does a board need nothing but the extra edge? A clean environment with the wheel and that extra, without torch and onnx,
# trains every network of the zoo: scripts/board.sh [BUNDLES]
#
# BUNDLES is a folder with one bundle a network; left out, they are built first, in the environment of the project.
# Where the packages can't be had it says so and passes, but fails where CI is true.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=.venv/bin/python

unavailable() {
    echo "board: skipped: $1"
    [ "${CI:-}" = true ] && exit 1 || exit 0
}

"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" . 2>/dev/null ||
    "$python" -m pip wheel --quiet --no-deps --wheel-dir "$work" . || unavailable "the wheel can't be built here"
"$python" -m venv --without-pip "$work/board"
"$python" -m pip --python "$work/board/bin/python" install --quiet -c constraints.txt "$(echo "$work"/*.whl)[edge]" ||
    unavailable "the packages of the extra edge can't be had"
bundles=${1:-$work/bundles}
[ -d "$bundles" ] || "$python" scripts/zoo_bundles.py "$bundles"
cp scripts/train_bundles.py "$work"
du -sm "$work/board/lib" | awk '{print "the environment of a board takes " $1 " MiB"}'
cd "$work" # where the project can't be imported but from the wheel
OMP_NUM_THREADS=1 board/bin/python -W error train_bundles.py "$bundles"
