#!/usr/bin/env bash
# The whole pipeline over a question file, in one process: domain tag, verdict, words, mask; then the grades. A run that
# was ended goes on with the same command. FakeShield's four variables, and some more:
#   WEIGHT_PATH     model folder                                      (nano, the embedded one)
#   QUESTION_PATH   JSONL with "image" and "text"; an empty text asks for the words of the standard conversation
#   DTE_FDM_OUTPUT  one JSON line a file: image, outputs, score, decision, domain_tag, regions  (runs/test/DTE-FDM_output.jsonl)
#   MFLM_OUTPUT     folder of masks, probabilities and overlays       (runs/test/MFLM_output)
#   IMAGE_ROOT      folder that the images are named from             (the question file's own)
#   ADAPTER_PATH    LoRA adapter for WEIGHT_PATH                      (nano: its own)
#   MASK_ADAPTER    another adapter, which draws                      (none: ADAPTER_PATH draws)
#   TAGGER          domain tagger's folder, nano or none              (auto: the embedded one with nano)
#   BATCH_SIZE      files judged together                             (8)
# Where the question file has "label", and "mask" where it is known, the rows are graded: EVALUATION (runs/test/evaluation).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

questions="${QUESTION_PATH:?set QUESTION_PATH to a question file: 'ivdetect data questions' writes one}"
rows="${DTE_FDM_OUTPUT:-runs/test/DTE-FDM_output.jsonl}"
masks="${MFLM_OUTPUT:-runs/test/MFLM_output}"
graded="${EVALUATION:-runs/test/evaluation}"
mkdir -p "$(dirname "$rows")"

echo "== Tag, verdict, words and mask of $questions"
code=0
"$ivdetect" detect --questions "$questions" ${IMAGE_ROOT:+--image-root "$IMAGE_ROOT"} --model "${WEIGHT_PATH:-nano}" \
  ${ADAPTER_PATH:+--adapter "$ADAPTER_PATH"} ${MASK_ADAPTER:+--mask-adapter "$MASK_ADAPTER"} --tagger "${TAGGER:-auto}" \
  --batch-size "${BATCH_SIZE:-8}" --explain --fakeshield --out "$rows" --resume --masks "$masks" || code=$?
echo "Rows: $rows"
echo "Masks: $masks"
[ "$code" -le 1 ] || exit "$code"

if grep -q '"label"' "$questions"; then
  echo "== Grades"
  threshold="$("$root/.venv/bin/python" -c '
import json, sys
for line in open(sys.argv[1]):
    if (at := json.loads(line).get("mask_threshold")) is not None:
        print(at)
        break' "$rows")"
  "$ivdetect" evaluate --data "$questions" ${IMAGE_ROOT:+--root "$IMAGE_ROOT"} --predictions "ivdetect=$rows" \
    --masks "$masks" ${threshold:+--mask-threshold "$threshold"} --out "$graded"
fi
exit "$code"
