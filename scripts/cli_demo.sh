#!/usr/bin/env bash
# The main job, from nothing: sets up, fine-tunes the embedded model by LoRA for about a minute on forged cuts of the
# photographs in the package, and judges a real photograph, an edited one, a rebuilt one and a clip: tag, verdict, words
# and mask in one process. All may be set:
#   WEIGHT_PATH     model folder                        (nano, the embedded one; with another the training is left out)
#   ADAPTER_PATH    LoRA adapter for WEIGHT_PATH        (nano: its own)
#   TAGGER          domain tagger's folder, nano, none  (auto: the embedded one with nano)
#   IMAGE_PATH      file or folder to judge             (the four samples)
#   DTE_FDM_OUTPUT  results, one JSON line a file       (runs/demo/DTE-FDM_output.jsonl)
#   MFLM_OUTPUT     folder for masks and overlays       (runs/demo/MFLM_output)
#   DEMO_STEPS      optimiser steps of the training     (40; 0 leaves it out)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

weights="${WEIGHT_PATH:-nano}"
steps="${DEMO_STEPS:-$([ "$weights" = nano ] && echo 40 || echo 0)}"
unset WEIGHT_PATH OUTPUT_DIR DATA_PATH TRAIN_DATA_CHOICE VAL_DATA_CHOICE BATCH_SIZE PER_DEVICE_BATCH_SIZE GPUS
demo="runs/demo"
rows="${DTE_FDM_OUTPUT:-$demo/DTE-FDM_output.jsonl}"
masks="${MFLM_OUTPUT:-$demo/MFLM_output}"
mkdir -p "$demo"

if [ ! -f "$demo/samples/meta.json" ]; then
  echo "== Forging a small training set from the photographs in the package"
  rm -rf "$demo/samples"
  "$ivdetect" data samples "$demo/samples"
fi

if [ "$steps" -gt 0 ]; then
  echo "== Fine-tuning $weights by LoRA, $steps steps; the test photographs are never trained on"
  "$ivdetect" train --config "$root/recipes/demo.yaml" --set "weight_path=$weights" \
    --set "data_path=$demo/samples/meta.json" --set "output_dir=$demo/training" --set "max_steps=$steps" \
    --set resume=never
fi

if [ -n "${IMAGE_PATH:-}" ]; then
  files=("$IMAGE_PATH")
else
  files=("$demo"/samples/{real.jpg,edited.jpg,rebuilt.jpg,clip.mp4})
fi
echo "== Judging ${files[*]}"
[ "$steps" -gt 0 ] && [ "$weights" = nano ] && [ -z "${ADAPTER_PATH:-}" ] &&
  echo "(by the adapter in the package; ADAPTER_PATH=$demo/training/adapter uses the one just trained)"
rm -f "$rows"
code=0
"$ivdetect" detect "${files[@]}" --model "$weights" ${ADAPTER_PATH:+--adapter "$ADAPTER_PATH"} --tagger "${TAGGER:-auto}" \
  --explain --fakeshield --out "$rows" --masks "$masks" --report "$demo/report.html" || code=$?
echo "Masks and overlays: $masks"
echo "Report to open in a browser: $demo/report.html"
exit "$code"
