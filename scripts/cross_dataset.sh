#!/usr/bin/env bash
# Train on one data set, and test on others (python -m scripts.transfer --help):
# bash scripts/cross_dataset.sh SOURCE TARGETS SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.transfer cross_dataset "$@"
