#!/usr/bin/env bash
# Sets up and tests: format, lint, types, tests. Arguments go to pytest, for example: -k tiles
# IVDETECT_REFERENCE names a folder with the original code's answers, if you have one, for the tests that compare.
set -euo pipefail
EXTRAS="dev,heic,forge,ray,provenance,serve,eval"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
python="$root/.venv/bin/python"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# The page is tested in a real browser. Where it is missing and this may install it, it is; else those tests are left out.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "== chromium, for the tests of the page"
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null || echo "not installed: the tests of the page are left out"
fi

if [ $# -eq 0 ]; then
  echo "== format and lint"
  "$python" -m ruff format --check --quiet .
  "$python" -m ruff check --quiet .
  echo "== types"
  "$python" -m mypy --no-error-summary
fi
echo "== tests"
exec "$python" -m pytest "$@"
