#!/usr/bin/env bash
# The main table of the README again: benchmarks/main_results.py on DATA, which may be the README's tree of datasets
# (whatever part of it is there), published folders, or a folder with manifest.csv. What is missing is said at the end
# by name, with where it is expected, and in OUT/main.json under "missing". Further arguments: see its --help.
#   bash benchmarks/main_results.sh DATA [OUT [--limit 60 ...]]
set -euo pipefail
data=$(realpath "${1:?usage: main_results.sh DATA [OUT [--limit 60 ...]]}")
out=$(realpath -m "${2:-results}")
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/.."
OMP_NUM_THREADS=1 PYTHONPATH=. exec "${PYTHON:-.venv/bin/python}" benchmarks/main_results.py "$data" --out "$out" "$@"
