#!/usr/bin/env bash
# SOT-GLP: bash scripts/sotglp/main.sh DATASET SHOTS [options of train.py ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/run.sh
setup "$@"
for seed in $SEEDS; do
    run SOTGLP "${VARIANT:-with-projection}" "$seed" "${@:3}"
done
