#!/usr/bin/env bash
# Builds the wheel, puts the installer for boards beside it, and says how both get onto a board: scripts/wheel.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
mkdir -p "$out"
rm -f "$out"/lamina_fl-*.whl
.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir "$out" .
cp edge_agent/packaging/install-agent.sh "$out/"
wheel=$(basename "$out"/lamina_fl-*.whl)
echo "$out/$wheel"
echo "to a board, in one line (pi-3 is its name or address):"
echo "  scp $out/$wheel $out/install-agent.sh pi-3: && ssh -t pi-3 sudo sh install-agent.sh $wheel"
