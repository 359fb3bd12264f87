#!/usr/bin/env bash
# All methods side by side: bash scripts/compare.sh DATASET SHOTS [options of train.py for every run ...]
# Ends in a table (terminal, Markdown, CSV), a bar chart and a figure of what the local prompts share out.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/run.sh
setup "$@"

# JOBS runs at a time: one on a GPU; without one a run a core, as small runs gain little from a second.
cores=$(nproc)
if nvidia-smi -L > /dev/null 2>&1; then JOBS=${JOBS:-1}; else JOBS=${JOBS:-$((cores < 4 ? cores : 4))}; fi
((JOBS == 1)) || export OMP_NUM_THREADS=$((cores < JOBS ? 1 : cores / JOBS))

read -ra seeds <<< "$SEEDS"
total=$((1 + 4 * ${#seeds[@]})) pids=()
set -m # each run is a process group of its own, which can be interrupted as a whole
trap 'for pid in $(jobs -rp); do kill -INT -- "-$pid"; done; wait 2> /dev/null' EXIT

# compare TRAINER VARIANT SEED [options]: a run announced with an estimate; its log goes to its folder alone.
compare() {
    local running finished left=""
    while running=$(jobs -rp | wc -l) && ((running >= JOBS)); do wait -n; done
    finished=$((${#pids[@]} - running))
    if ((finished)); then left=", about $((SECONDS * (total - finished) / finished)) s left"; fi
    echo "[$((${#pids[@]} + 1))/$total$left] $1 $2, seed $3"
    run "$@" 2>&1 > /dev/null | cat >&2 & # through cat, so that no progress bars of several runs mix
    pids+=($!)
}

compare ZeroshotCLIP one-template 1 --eval-only "${@:3}"
for seed in "${seeds[@]}"; do
    compare CoOp shared-context "$seed" "${@:3}"
    compare CoOp class-specific-contexts "$seed" "${@:3}" TRAINER.COOP.CSC True
    compare SOTGLP with-projection "$seed" "${@:3}"
    compare SOTGLP projection-free "$seed" "${@:3}" TRAINER.SOTGLP.PROJECTION False
done
for pid in "${pids[@]}"; do wait "$pid"; done

out=$OUTPUT/$DATASET/compare_${BACKBONE}_${SHOTS}shots
"$PYTHON" -m scripts.table --out "$out" "$(folder ZeroshotCLIP one-template)" \
    "$(folder CoOp shared-context)" "$(folder CoOp class-specific-contexts)" \
    "$(folder SOTGLP with-projection)" "$(folder SOTGLP projection-free)"
"$PYTHON" -m scripts.figure "$(folder SOTGLP with-projection)/seed${seeds[0]}" --out "$out/prompts.png"
