#!/usr/bin/env bash
# Rebuilds the weights that the package ships from a folder of photographs, stage by stage; a run that was ended goes on
# with the same command, and OUTPUT_DIR/stages.json tells the seconds of each stage. Set by environment variables:
#   PHOTOGRAPHS          folder whose sub-folders are sources of photographs
#   FACES                folder of aligned faces, likewise                (none)
#   GENERATED            folder whose sub-folders are generators          (none)
#   OUTPUT_DIR           the run; what is shipped lies in its embedded/   (runs/embedded)
#   CALIBRATE_REAL, CALIBRATE_GENERATED   sources that nothing is trained on, for the calibration  (every third given)
#   ENCODER, DECODER     files of one published autoencoder more          (none)
#   LEFT_OUT             sources to leave out in turn, to measure: "by_style4 flux city"           (none)
#   START                nano: the base goes on from the embedded one; fresh: from an untrained one  (nano)
# and, smaller for a trial: SECONDS_PER_DECODER (120), DECODERS ("nearest8ka style4 ..."), SHARE of the photographs that a
# decoder forges (0.15), ROWS_SHARE of all pictures that nano sees (0.22), TAGGER_STEPS, NANO_EPOCHS (the recipes').
# WORKERS processes forge (all cores). Further arguments go to the program: --help lists them.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$([ -x "$here/.venv/bin/python" ] && echo "$here/.venv/bin/python" || echo python3)}"
photographs="${PHOTOGRAPHS:?set PHOTOGRAPHS to a folder whose sub-folders hold photographs (docs/training.md)}"

given=()
[ -n "${ENCODER:-}" ] && given=(--given "$ENCODER" "${DECODER:?set DECODER with ENCODER}")
[ -n "${DECODERS:-}" ] && read -ra kinds <<<"$DECODERS" && given+=(--kinds "${kinds[@]}")
[ -n "${LEFT_OUT:-}" ] && read -ra left_out <<<"$LEFT_OUT" && given+=(--left-out "${left_out[@]}")

PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m internvl_detect.train.embedded \
  --photographs "$photographs" --out "${OUTPUT_DIR:-runs/embedded}" \
  ${FACES:+--faces "$FACES"} ${GENERATED:+--generated "$GENERATED"} \
  ${CALIBRATE_REAL:+--calibrate-real "$CALIBRATE_REAL"} \
  ${CALIBRATE_GENERATED:+--calibrate-generated "$CALIBRATE_GENERATED"} ${START:+--start "$START"} \
  ${SECONDS_PER_DECODER:+--seconds "$SECONDS_PER_DECODER"} ${SHARE:+--share "$SHARE"} \
  ${ROWS_SHARE:+--rows-share "$ROWS_SHARE"} ${TAGGER_STEPS:+--tagger-steps "$TAGGER_STEPS"} \
  ${NANO_EPOCHS:+--nano-epochs "$NANO_EPOCHS"} ${WORKERS:+--workers "$WORKERS"} \
  ${given[@]+"${given[@]}"} "$@"
