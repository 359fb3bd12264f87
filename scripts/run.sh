#!/usr/bin/env bash
# Runs of a method, one a seed: bash scripts/run.sh METHOD DATASET SHOTS [options of train.py ...]; see scripts/run.py.
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" -m scripts.run "$@"
