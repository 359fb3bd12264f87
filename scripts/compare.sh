#!/usr/bin/env bash
# Methods side by side: bash scripts/compare.sh DATASETS SHOTS [options of train.py ...]; see scripts/compare.py.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.compare "$@"
