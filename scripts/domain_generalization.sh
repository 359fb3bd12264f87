#!/usr/bin/env bash
# Train on some domains, and test on others (python -m scripts.transfer --help):
# bash scripts/domain_generalization.sh DATASET SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.transfer domain_generalization "$@"
