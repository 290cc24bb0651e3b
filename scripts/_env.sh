# Sourced by the scripts beside it: the checkout ($root) and a virtual environment in it ($python) that fits
# pyproject.toml and constraints.txt. Settings, all optional:
#   RECELL_PYTHON       the Python (3.11 or 3.12) to make the environment with
#   RECELL_TORCH_INDEX  the package index to take torch from, e.g. PyTorch's CPU wheel index (pytorch.org, Get Started)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
tested=test,onnx,serve # the extras that the gate and the tests take
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

_find_python() { # the first supported Python on the PATH
  local candidate
  for candidate in ${RECELL_PYTHON:+"$RECELL_PYTHON"} python3 python3.12 python3.11; do
    if "$candidate" -c "$supported" 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
    [ -z "${RECELL_PYTHON:-}" ] || die "RECELL_PYTHON=$RECELL_PYTHON is not a Python 3.11 or 3.12"
  done
  die "needs Python 3.11 or 3.12; $(python3 -V 2>/dev/null || echo none) is on the PATH. Set RECELL_PYTHON to one."
}

_make_venv() {
  local base
  base=$(_find_python)
  "$base" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$base has no venv module: install it (Debian and Ubuntu: the package python3-venv), or set RECELL_PYTHON"
  say "making $venv with $("$base" -V)"
  "$base" -m venv --clear "$venv"
}

_stamp() { # what an environment depends on; $1 is the extras
  "$python" - "$root" "$1" "${RECELL_TORCH_INDEX:-}" <<'PY'
import hashlib
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
parts = [sys.version, *sys.argv[1:], *((root / n).read_text() for n in ("pyproject.toml", "constraints.txt"))]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PY
}

_pip() { "$python" -m pip --disable-pip-version-check --no-input install -q -c "$root/constraints.txt" "$@"; }

_install() { # $1 is the extras: "" or as $tested
  local torch
  torch=$(grep '^torch==' "$root/constraints.txt")
  if ! "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
    if [ -n "${RECELL_TORCH_INDEX:-}" ]; then
      # Only torch comes from there: such an index holds old copies of torch's own dependencies.
      _pip --no-deps --index-url "$RECELL_TORCH_INDEX" "$torch"
    elif [ "$(uname -s)" = Linux ]; then
      say "note: on Linux PyPI's $torch is the CUDA build, several gigabytes; RECELL_TORCH_INDEX chooses another (README)"
    fi
  fi
  say "installing recell${1:+[$1]} and its dependencies (a few minutes)"
  # The build backend is pinned like everything else, so it is installed first and not fetched anew by pip.
  _pip setuptools
  _pip --no-build-isolation -e "$root${1:+[$1]}"
}

# ensure_env EXTRAS: afterwards $python runs an environment with recell[EXTRAS]. At no cost when it is up to date.
ensure_env() {
  local extra=$1
  cd "$root"
  "$python" -m pip --version >/dev/null 2>&1 || _make_venv
  "$python" -c "$supported" || die "$venv has $("$python" -V), not 3.11 or 3.12: remove it and try again"
  if [ "$(cat "$venv/recell-stamp-${extra:-base}" 2>/dev/null)" != "$(_stamp "$extra")" ]; then
    _install "$extra"
    _stamp "$extra" >"$venv/recell-stamp-${extra:-base}"
    _stamp "" >"$venv/recell-stamp-base"
  fi
}
