#!/usr/bin/env bash
# Fine-tunes InternVL2-8B by LoRA with the original's hyper-parameters. Everything is set by environment variables:
#   OUTPUT_DIR             the run folder                    (runs/internvl2_8b_lora)
#   DATA_PATH              meta JSON, a folder of datasets, or a manifest (data/meta.json)
#   WEIGHT_PATH            the base model's folder           (InternVL2-8B; nano: the embedded one)
#   TRAIN_DATA_CHOICE      what to train on, like "ps|CASIA2,FR"   (all)
#   VAL_DATA_CHOICE        what to validate on, like "ps|CASIA1+"  (none)
#   GPUS                   processes, one GPU each           (1)
#   BATCH_SIZE             samples per step over all GPUs    (128)
#   PER_DEVICE_BATCH_SIZE  rows per forward                  (1)
# CONFIG names another recipe; further arguments go to `ivdetect train`, for example --set epochs=2.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
config="${CONFIG:-$here/recipes/internvl2_8b_lora.yaml}"
python="${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || echo python3)}"

if [ "${GPUS:-1}" -gt 1 ]; then
  exec "$python" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" \
    -m internvl_detect.cli train --config "$config" "$@"
fi
exec "$python" -m internvl_detect.cli train --config "$config" "$@"
