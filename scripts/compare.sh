#!/usr/bin/env bash
# Compare methods (python -m scripts.compare --help):
# bash scripts/compare.sh DATASETS SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.compare "$@"
