#!/usr/bin/env bash
# Train on half of the classes, and test on each half (python -m scripts.transfer --help):
# bash scripts/base_to_new.sh DATASETS SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.transfer base_to_new "$@"
