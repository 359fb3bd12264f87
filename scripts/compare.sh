#!/usr/bin/env bash
# All methods side by side: bash scripts/compare.sh DATASET SHOTS [options of train.py for every run ...]
# Ends in a table (terminal, Markdown, CSV), a bar chart and a figure of what the local prompts share out.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/run.sh
setup "$@"

read -ra seeds <<< "$SEEDS"
total=$((1 + 4 * ${#seeds[@]})) number=0 trained=0

# compare TRAINER VARIANT SEED [options]: a run whose log goes to its folder only, announced with an estimate.
compare() {
    number=$((number + 1))
    local left="" start=$SECONDS
    if ((trained)); then left=", about $((SECONDS * (total - number + 1) / trained)) s left"; fi
    echo "[$number/$total$left] $1 $2, seed $3"
    run "$@" > /dev/null
    if ((SECONDS > start)); then trained=$((trained + 1)); fi
}

compare ZeroshotCLIP one-template 1 --eval-only "${@:3}"
for seed in "${seeds[@]}"; do
    compare CoOp shared-context "$seed" "${@:3}"
    compare CoOp class-specific-contexts "$seed" "${@:3}" TRAINER.COOP.CSC True
    compare SOTGLP with-projection "$seed" "${@:3}"
    compare SOTGLP projection-free "$seed" "${@:3}" TRAINER.SOTGLP.PROJECTION False
done

out=$OUTPUT/$DATASET/compare_${BACKBONE}_${SHOTS}shots
"$PYTHON" scripts/table.py --out "$out" "$(folder ZeroshotCLIP one-template)" \
    "$(folder CoOp shared-context)" "$(folder CoOp class-specific-contexts)" \
    "$(folder SOTGLP with-projection)" "$(folder SOTGLP projection-free)"
"$PYTHON" scripts/figure.py "$(folder SOTGLP with-projection)/seed${seeds[0]}" --out "$out/prompts.png"
