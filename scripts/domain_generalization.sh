#!/usr/bin/env bash
# Trained on one domain, tested on others: bash scripts/domain_generalization.sh DATASET SHOTS [options of train.py ...]; see scripts/transfer.py.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.transfer domain_generalization "$@"
