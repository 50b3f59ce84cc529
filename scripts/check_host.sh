#!/usr/bin/env bash
# Says what is missing on this machine before the long build starts, all of it at once.
# Usage: check_host.sh PYTHON
set -euo pipefail

python=${1:-python3}
missing=()

if ! command -v "$python" >/dev/null; then
    missing+=("Python 3.11 or newer: there is no '$python' (Debian: python3; or name another with PYTHON=...)")
elif ! "$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))'; then
    missing+=("Python 3.11 or newer: '$python' is $("$python" -V 2>&1) (name another with PYTHON=...)")
elif ! "$python" -c 'import pip; raise SystemExit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3))' 2>/dev/null; then
    missing+=("pip 22.3 or newer for '$python' (Debian: python3-pip)")
elif ! "$python" -c 'import venv' 2>/dev/null; then
    missing+=("the venv module for '$python' (Debian: python3-venv)")
fi

command -v "${CC:-cc}" >/dev/null || missing+=("a C compiler (Debian: g++)")
command -v "${CXX:-c++}" >/dev/null || missing+=("a C++ compiler (Debian: g++)")

if ((${#missing[@]})); then
    echo "This machine lacks what the installation needs:" >&2
    printf '  - %s\n' "${missing[@]}" >&2
    echo "On Debian or Ubuntu: apt-get install python3 python3-pip g++ make" >&2
    exit 1
fi
