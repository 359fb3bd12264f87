#!/usr/bin/env bash
# CoOp with a context shared by all classes: bash scripts/coop/main.sh DATASET SHOTS [options of train.py ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/run.sh
setup "$@"
for seed in $SEEDS; do
    run CoOp "${VARIANT:-shared-context}" "$seed" "${@:3}"
done
