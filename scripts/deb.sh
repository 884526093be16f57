#!/usr/bin/env bash
# Builds the agent as a Debian package, its environment and systemd unit included: scripts/deb.sh [OUT]
#
#   ARCH=arm64 PYTHON=3.13 scripts/deb.sh dist       for another processor and another release than this machine's
#
# The package holds the wheel and the extra edge, for one version of Python: 3.11 in Debian 12 and Raspberry Pi OS
# (bookworm), 3.13 in Debian 13 (trixie), 3.12 in Ubuntu 24.04. Nothing of it runs while it is built, so any machine
# builds it for any board; the board needs no network to install it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
arch=${ARCH:-$(dpkg --print-architecture)}
python=${PYTHON:-$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "deb.sh: there are no wheels of ONNX Runtime for $arch; amd64 and arm64 it can be" >&2; exit 2 ;;
esac
own=.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root home=$work/root/opt/lamina
site=$home/lib/python$python/site-packages
mkdir -p "$site" "$home/bin" "$root/DEBIAN" "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/etc/lamina" \
    "$root/usr/share/doc/lamina-agent"

"$own" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
wheel=$(echo "$work"/lamina_fl-*.whl)
version=$(basename "$wheel" | cut -d- -f2)
platforms=()
for libc in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do platforms+=(--platform "${libc}_$machine"); done
"$own" -m pip install --quiet --no-compile --target "$site" -c constraints.txt --only-binary=:all: --implementation cp \
    --python-version "$python" "${platforms[@]}" "${wheel}[edge]"
rm -rf "$site/bin" "$site"/lamina/{coordinator,emulation}

# What `python -m venv` would make: a Python that knows these packages and no others.
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$python" >"$home/pyvenv.cfg"
ln -s "/usr/bin/python$python" "$home/bin/python3"
ln -s python3 "$home/bin/python"
cat >"$home/bin/lamina-agent" <<'PROGRAM'
#!/opt/lamina/bin/python3 -P
import sys

from lamina.edge_agent.cli import main

sys.exit(main())
PROGRAM
chmod 755 "$home/bin/lamina-agent"
ln -s /opt/lamina/bin/lamina-agent "$root/usr/bin/lamina-agent"
install -m 644 edge_agent/packaging/lamina-agent.service "$root/usr/lib/systemd/system/"
install -m 644 LICENSE "$root/usr/share/doc/lamina-agent/copyright"
chmod 755 "$root/etc/lamina"

next=${python%.*}.$((${python#*.} + 1))
cat >"$root/DEBIAN/control" <<CONTROL
Package: lamina-agent
Version: $version
Architecture: $arch
Maintainer: The Lamina authors <lamina@example.org>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python3 (>= $python), python3 (<< $next), libc6 (>= 2.28), libstdc++6
Recommends: ca-certificates
Section: net
Priority: optional
Description: agent of the federated-learning system Lamina
 Trains a network with the samples of this board, and sends what was learnt, not the samples, to a coordinator, over
 MQTT. It runs as a service once \`lamina-agent join\` has made this board a part of a federation.
CONTROL
install -m 755 edge_agent/packaging/deb/postinst edge_agent/packaging/deb/prerm edge_agent/packaging/deb/postrm "$root/DEBIAN/"
deb=$out/lamina-agent_${version}_${arch}_python$python.deb
dpkg-deb --root-owner-group "-Z${COMPRESSION:-xz}" --build "$root" "$deb" >/dev/null
echo "$deb: $(du -m "$deb" | cut -f1) MB, $(du -sm "$root/opt" | cut -f1) MB installed"
