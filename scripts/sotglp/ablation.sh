#!/usr/bin/env bash
# SOT-GLP with one part changed at a time: bash scripts/sotglp/ablation.sh DATASETS SHOTS [options of train.py ...]
exec bash "$(dirname "$0")/../compare.sh" --methods configs/comparisons/ablation.yaml "$@"
