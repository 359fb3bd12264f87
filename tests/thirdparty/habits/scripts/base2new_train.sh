#!/bin/bash

DATA=$1
SEED=$2
SUB=$3
DIR=$4

CUDA_VISIBLE_DEVICES="" python train.py \
    --root ${DATA} \
    --seed ${SEED} \
    --trainer TwoTowers \
    --dataset-config-file configs/datasets/oxford_pets.yaml \
    --config-file configs/trainers/TwoTowers/vit_ep2.yaml \
    --output-dir ${DIR} \
    --model-dir nowhere \
    --load-epoch 20 \
    FIRST_STAGE output/${SUB}/prompt_learner/model.pth.tar-1 \
    TRAINER.MODAL base2novel\
    LOSS.TABLE ${SUB}"&"${SEED} \
    MODEL.N 2 \
    TRAINER.TWOTOWERS.N_CTX 2 \
    TRAINER.TWOTOWERS.CTX_INIT "'a photo of a'" \
    OPTIM.WARMUP_CONS_LR "1e-3" \
    INPUT.SIZE "(32, 32)" \
    DATASET.NUM_SHOTS 4 \
    DATASET.SUBSAMPLE_CLASSES ${SUB} "${@:5}"
