#!/bin/bash

DATA=$1
SEED=$2
SUB=$3
DIR=$4
LOADEP=3

python train.py \
    --root ${DATA} \
    --seed ${SEED} \
    --trainer TwoTowers \
    --dataset-config-file configs/datasets/oxford_pets.yaml \
    --config-file configs/trainers/TwoTowers/vit_ep2.yaml \
    --output-dir ${DIR}/test_${SUB} \
    --model-dir ${DIR} \
    --load-epoch ${LOADEP} \
    --eval-only \
    TRAINER.TWOTOWERS.N_CTX 2 \
    DATASET.NUM_SHOTS 0 \
    DATASET.SUBSAMPLE_CLASSES ${SUB} "${@:5}"
