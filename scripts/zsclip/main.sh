#!/usr/bin/env bash
# Zero-shot CLIP, which has no seeds: bash scripts/zsclip/main.sh DATASET SHOTS [options of train.py ...]
exec bash "$(dirname "$0")/../run.sh" "zero-shot CLIP" "$@"
