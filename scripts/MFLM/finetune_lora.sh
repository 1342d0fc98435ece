#!/usr/bin/env bash
# Trains MFLM, the part that draws: the <SEG> row and the mask head, together with LoRA on InternVL2.
# Environment: OUTPUT_DIR, DATA_PATH, WEIGHT_PATH, TRAIN_DATA_CHOICE, VAL_DATA_CHOICE, GPUS, BATCH_SIZE,
# PER_DEVICE_BATCH_SIZE, CONFIG (another recipe). The best by pixel F1 is kept where VAL_DATA_CHOICE is set.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export CONFIG="${CONFIG:-$here/recipes/internvl2_8b_mflm.yaml}" OUTPUT_DIR="${OUTPUT_DIR:-runs/mflm_lora}"
exec bash "$here/finetune/internvl2_8b_internlm2_7b_dynamic_res_2nd_finetune_lora.sh" "$@"
