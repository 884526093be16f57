#!/bin/sh
# Installs the agent on a board: an environment of its own below /opt/lamina, which the system's Python doesn't know of,
# a link in /usr/local/bin, and the systemd unit. Run again with a newer wheel, it replaces the environment.
#
#   sudo sh install-agent.sh lamina_fl-0.1.0-py3-none-any.whl
#
#   --prefix FOLDER     in place of /opt/lamina
#   --extras NAMES      of the wheel, separated by commas (edge); edge,images for folders of images
#   --no-service        neither the link nor the unit
#   --python PROGRAM    the Python to take, 3.11 or later; left out, the newest that is there, or one that `uv` brings
#   PIP_* variables (an index of your own, a folder of wheels) are heeded.
set -eu

prefix=/opt/lamina extras=edge service=yes python='' wheel=''
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=$2; shift 2 ;;
        --extras) extras=$2; shift 2 ;;
        --python) python=$2; shift 2 ;;
        --no-service) service=no; shift ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "install-agent.sh: unknown option $1; see --help" >&2; exit 2 ;;
        *) wheel=$1; shift ;;
    esac
done

fail() {
    echo "install-agent.sh: $1" >&2
    exit 2
}

[ -n "$wheel" ] || fail "name the wheel: sh install-agent.sh lamina_fl-0.1.0-py3-none-any.whl"
[ -f "$wheel" ] || fail "$wheel: no such file"
parent=$(dirname "$prefix")
mkdir -p "$parent" 2>/dev/null && [ -w "$parent" ] || fail "$parent can't be written to: run it with sudo, or choose a --prefix"

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -z "$python" ]; then
    for each in python3.14 python3.13 python3.12 python3.11 python3; do
        if command -v "$each" >/dev/null && recent "$each"; then python=$each; break; fi
    done
fi

# The new environment is made beside the old one, which serves until the new one is whole.
new=$prefix.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
if [ -n "$python" ]; then
    recent "$python" || fail "$python is older than 3.11, or doesn't run"
    "$python" -m venv "$new" 2>/dev/null || fail "$python can't make environments: sudo apt install python3-venv"
    "$new/bin/python" -m pip install --quiet "$wheel[$extras]" || fail "the packages can't be had; is the board online?"
elif command -v uv >/dev/null; then # JetPack's Python is 3.10
    UV_PYTHON_INSTALL_DIR=$prefix-python uv venv --quiet --python 3.12 "$new" || fail "uv can't bring a Python 3.12"
    uv pip install --quiet --python "$new/bin/python" "$wheel[$extras]" || fail "the packages can't be had; is the board online?"
else
    fail "there is no Python 3.11 or later; install uv (https://docs.astral.sh/uv) and run this again: it brings one along"
fi
"$new/bin/python" -c 'import lamina.edge_agent.cli' || fail "the agent does not start in its environment"

rm -rf "$prefix.old"
[ ! -e "$prefix" ] || mv "$prefix" "$prefix.old"
mv "$new" "$prefix"
rm -rf "$prefix.old"
# Programs in an environment name its folder, which was another while they were written.
for program in "$prefix"/bin/*; do
    if [ -f "$program" ] && [ ! -L "$program" ]; then sed -i "s|$new/bin|$prefix/bin|g; s|$new|$prefix|g" "$program"; fi
done

if [ "$service" = yes ]; then
    ln -sf "$prefix/bin/lamina-agent" /usr/local/bin/lamina-agent
    mkdir -p /etc/lamina
    if [ -d /etc/systemd/system ]; then
        unit=$("$prefix/bin/python" -c 'import lamina.edge_agent as a; print(a.__path__[0] + "/packaging/lamina-agent.service")')
        sed "s|/opt/lamina|$prefix|" "$unit" >/etc/systemd/system/lamina-agent.service
        systemctl daemon-reload 2>/dev/null || true
    fi
fi
"$prefix/bin/lamina-agent" --version
echo "next: sudo lamina-agent join CODE --folder /etc/lamina, and sudo systemctl enable --now lamina-agent"
