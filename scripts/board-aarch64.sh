#!/usr/bin/env bash
# Does a board's own processor train the same? The extra edge, as wheels for aarch64, trains digits_cnn under user-mode
# emulation: scripts/board-aarch64.sh [BUNDLES] (as in board.sh). Some minutes, on Debian and its like; no root is needed.
#
# QEMU 10 or later: with 7.2, onnxruntime 1.32 dies when it is imported (1.27 does not). So QEMU and Python come from trixie.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # fetch ARCHITECTURE TARGET PACKAGE...: unpack packages of trixie, with an apt of its own, which installs nothing
    local own=$work/apt-$1 target=$2
    mkdir -p "$own"/{lists/partial,archives/partial,debs} "$target"
    touch "$own/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" >"$own/list"
    printf '%s\n' "APT::Architecture \"$1\";" "APT::Architectures { \"$1\"; };" "Dir::State \"$own\";" \
        "Dir::State::status \"$own/status\";" "Dir::State::lists \"$own/lists\";" "Dir::Cache \"$own\";" \
        "Dir::Etc::sourcelist \"$own/list\";" 'Dir::Etc::sourceparts "/dev/null";' >"$own/conf"
    export APT_CONFIG=$own/conf
    apt-get -qq update
    (cd "$own/debs" && apt-get -qq download "${@:3}" 2>/dev/null && for deb in *.deb; do dpkg -x "$deb" "$target"; done)
    unset APT_CONFIG
}

fetch "$(dpkg --print-architecture)" "$work/qemu" qemu-user
fetch arm64 "$work/root" python3.13-minimal libpython3.13-minimal libpython3.13-stdlib libc6 zlib1g libexpat1 libssl3t64 \
    libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libstdc++6 libgcc-s1
[ -e "$work/root/lib" ] || ln -s usr/lib "$work/root/lib"
.venv/bin/pip install --quiet --target "$work/site" -c constraints.txt --only-binary=:all: --implementation cp \
    --python-version 3.13 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    aiomqtt backports.zstd google-crc32c msgspec numpy pynacl safetensors onnxruntime
bundles=${1:-$work/zoo}
[ -d "$bundles" ] || .venv/bin/python scripts/zoo_bundles.py "$bundles"
mkdir "$work/bundles" && cp -r "$bundles/digits_cnn" "$work/bundles"
mkdir "$work/site/lamina" && cp "$here"/src/lamina/*.py "$work/site/lamina"
for package in models broker edge_agent; do cp -r "$here/$package" "$work/site/lamina"; done
cp scripts/train_bundles.py "$work"
cd "$work"
OMP_NUM_THREADS=1 qemu/usr/bin/qemu-aarch64 -L root root/usr/bin/python3.13 -S -c "
import platform, runpy, sys
sys.path[:0] = ['site']
sys.argv = ['train_bundles.py', 'bundles']
print('a processor of the kind', platform.machine(), 'with Python', platform.python_version(), flush=True)
runpy.run_path('train_bundles.py', run_name='__main__')"
