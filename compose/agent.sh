#!/bin/sh
# One agent of a size (strong, moderate, weak): it takes the first board file that no other container has.
set -eu
federation=${FEDERATION:-/federation} state=${STATE:-/state} tier=$1

for file in "$federation/boards/$tier"-*.board; do
    name=$(basename "$file" .board)
    exec 9>"$state/$name.lock" # held until this program ends
    if flock --nonblock 9; then
        folder=$state/$name
        if [ ! -e "$folder/agent.toml" ]; then
            lamina-agent join "$file" --folder "$folder"
            # Each device could train all of so small a network in micro-batches; here they are to be unequal.
            sed -i '1i savings = []' "$folder/agent.toml"
        fi
        exec lamina-agent --config "$folder/agent.toml" --folder "$folder/agent" --once
    fi
done
echo "agent.sh: no board file of size $tier is free: SCALE was smaller when the federation was prepared" >&2
exit 2
