#!/usr/bin/env bash
# Trains DTE-FDM, the part that detects and explains: the fine-tuning of InternVL2 by LoRA on questions with answers.
# The same environment variables as the script that it calls: OUTPUT_DIR, DATA_PATH, WEIGHT_PATH, TRAIN_DATA_CHOICE,
# VAL_DATA_CHOICE, GPUS, BATCH_SIZE, PER_DEVICE_BATCH_SIZE.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export OUTPUT_DIR="${OUTPUT_DIR:-runs/dte_fdm_lora}"
exec bash "$here/finetune/internvl2_8b_internlm2_7b_dynamic_res_2nd_finetune_lora.sh" "$@"
