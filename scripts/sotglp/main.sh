#!/usr/bin/env bash
# SOT-GLP: bash scripts/sotglp/main.sh DATASET SHOTS [options of train.py ...]
exec bash "$(dirname "$0")/../run.sh" "SOT-GLP, with projection" "$@"
