#!/usr/bin/env bash
# Train and test a method with several seeds (python -m scripts.run --help):
# bash scripts/run.sh METHOD DATASET SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.run "$@"
