#!/usr/bin/env bash
# Compare OOD detection of methods (python -m scripts.ood_detection --help):
# bash scripts/ood_detection.sh DATASETS SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.ood_detection "$@"
