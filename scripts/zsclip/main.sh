#!/usr/bin/env bash
# Zero-shot CLIP, which has no seeds: bash scripts/zsclip/main.sh DATASET SHOTS [options of train.py ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/run.sh
setup "$@"
run ZeroshotCLIP "${VARIANT:-one-template}" 1 --eval-only "${@:3}"
