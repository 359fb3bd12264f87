#!/usr/bin/env bash
# Methods telling images of other kinds: bash scripts/ood_detection.sh DATASETS SHOTS [options of train.py ...]
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.ood_detection "$@"
