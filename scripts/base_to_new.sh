#!/usr/bin/env bash
# Trained on half of the classes, tested on both halves: bash scripts/base_to_new.sh DATASETS SHOTS [options of train.py ...]; see scripts/transfer.py.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.transfer base_to_new "$@"
