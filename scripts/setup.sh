# Sourced by the scripts: makes .venv once and says what it does. Later runs see from a stamp that nothing changed, so
# they need no network. EXTRAS (for example "dev,heic") adds optional parts; PYTHON names another interpreter.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
unset PYTHONDONTWRITEBYTECODE # without bytecode every start takes twice as long

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.11 or later with venv was found. Install one (Debian: apt-get install python3-venv) or set PYTHON." >&2
  return 2
}

set_up() {
  local wanted stamp="$root/.venv/.set-up" python
  wanted="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum) ${EXTRAS:-}"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  # What is installed for development serves the demo as well.
  if [ -f "$stamp" ] && [ -z "${EXTRAS:-}" ] && [ "$(cut -d' ' -f1,2 "$stamp")" = "${wanted% }" ]; then
    return
  fi
  python="$(find_python)" || return 2
  echo "Setting up .venv (once; about a minute and 1.5 GB) ..." >&2
  [ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
  if ! "$root/.venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint "$root/constraints.txt" --editable "$root${EXTRAS:+[$EXTRAS]}"; then
    echo "Setting up failed: see pip's message above. The first set-up needs a network." >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}

set_up || exit $?
ivdetect="$root/.venv/bin/ivdetect"
