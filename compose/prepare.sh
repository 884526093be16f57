#!/bin/sh
# Once: a federation with TLS, the bundle, every device's share of the data, and a board file for each device.
# SCALE devices of each of three sizes. What is there already stays.
set -eu
federation=${FEDERATION:-/federation} data=${DATA:-/data} scale=${SCALE:-2} broker=${BROKER:-broker}
here=$(cd "$(dirname "$0")" && pwd)

if [ ! -e "$federation/federation.toml" ]; then
    lamina init "$federation.new" --name compose --host "$broker" --host coordinator --host localhost \
        --port "${PORT:-8883}" --coordinator-port "${COORDINATOR_PORT:-8884}"
    cp -r "$federation.new/." "$federation/"
    rm -rf "$federation.new"
    sed -i '/^\[training\]/,$d' "$federation/federation.toml"
    sed "s|^min_devices = .*|min_devices = $((3 * scale))|; s|/data/|$data/|" "$here/training.toml" >>"$federation/federation.toml"
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$federation/coordinator/dashboard.token"
fi
[ -e "$federation/bundle" ] || lamina bundle digits_cnn "$federation/bundle"
[ -e "$data/devices" ] || lamina partition digits "$data/devices" --devices $((3 * scale)) --alpha 0.5
number=0
for tier in strong moderate weak; do
    for index in $(seq "$scale"); do
        number=$((number + 1))
        [ -e "$federation/boards/$tier-$index.board" ] ||
            lamina enrol "$tier-$index" --in "$federation" --tier "$tier" --data "$data/devices/device-$number.npz"
    done
done
