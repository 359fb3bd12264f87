#!/usr/bin/env bash
# CoOp with a context shared by all classes: bash scripts/coop/main.sh DATASET SHOTS [options of train.py ...]
exec bash "$(dirname "$0")/../run.sh" "CoOp, shared context" "$@"
