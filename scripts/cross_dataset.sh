#!/usr/bin/env bash
# Trained on one data set, tested on others: bash scripts/cross_dataset.sh SOURCE TARGETS SHOTS [options of train.py ...]; see scripts/transfer.py.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.transfer cross_dataset "$@"
