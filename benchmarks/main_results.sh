#!/usr/bin/env bash
# The main table of the README again: benchmarks/main_results.py on each folder given that has a manifest.csv.
# What is missing is said at the end, in OUT/main.json under "missing".
#   bash benchmarks/main_results.sh DATA [OUT] [LIMIT]
set -euo pipefail
data=${1:?usage: main_results.sh DATA [OUT] [LIMIT]}
out=${2:-results}
limit=${3:-60}
cd "$(dirname "$0")/.."
if [[ ! -f $data/manifest.csv ]]; then
  echo "$data has no manifest.csv; write one with: ivdetect data list --root $data" >&2
  exit 2
fi
OMP_NUM_THREADS=1 PYTHONPATH=. "${PYTHON:-.venv/bin/python}" benchmarks/main_results.py "$data" --limit "$limit" --out "$out"
python3 -c 'import json,sys; print(*(["missing:"] + json.load(open(sys.argv[1]))["missing"]), sep="\n  ")' "$out/main.json"
