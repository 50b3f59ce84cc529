#!/usr/bin/env bash
# Runs the GPU check (docs/gpu-check.md) in an environment of its own, so that a bare machine with an NVIDIA card, Python,
# pip, a C++ compiler and a CUDA toolkit will do; nothing is installed into this project's .venv.
#
#   scripts/gpu_check.sh [build|check] [OPTION]...     see --help
#   scripts/gpu_check.sh pack DIR [PYTHON]             everything that a machine without a network needs (PYTHON: 3.12)
#   GPU_CHECK_PACK=DIR scripts/gpu_check.sh ...        uses such a folder; cmake and ninja must be there
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

python=${PYTHON:-python3}
pack=${GPU_CHECK_PACK:-}
folder=${XDG_CACHE_HOME:-$HOME/.cache}/llm-optimizer/gpu-check
env=$folder/env

# The service's packages, but for the binding, which is built for the card; the check itself asks with httpx.
requirements() {
    { grep -oE '^[A-Za-z0-9._-]+==' "$root/requirements/base.txt"; printf '%s==\n' httpx httpcore certifi; } |
        grep -v '^llama-cpp-python==' |
        awk 'NR == FNR { wanted[$0] = 1; next } /^[A-Za-z0-9]/ { match($0, /==/); take = substr($0, 1, RSTART + 1) in wanted } take' - "$root/requirements/dev.txt"
}

pip_options=(--disable-pip-version-check -qq --no-deps --require-hashes --only-binary :all:)

# A folder with the wheels for that Python, and the sources. Any Linux of the last years can use it.
make_pack() {
    local target=$1 version=$2 number platforms=()
    for number in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${number}_$(uname -m)"); done
    mkdir -p "$target"
    requirements >"$target/requirements.txt"
    "$python" -m pip download "${pip_options[@]}" --python-version "$version" --implementation cp \
        "${platforms[@]}" --platform "manylinux2014_$(uname -m)" \
        --dest "$target/wheels" -r "$target/requirements.txt"
    make_environment
    "$env/bin/python" -m bench.gpu_check sources --folder "$folder"
    tar -czf "$target/sources.tar.gz" -C "$folder/sources" llama_cpp vendor
    du -sh "$target"
}

make_environment() {
    local wanted where
    wanted=$(mktemp)
    requirements >"$wanted"
    if ! cmp -s "$wanted" "$env/requirements.txt" || ! "$env/bin/python" -c '' 2>/dev/null; then
        "$root/scripts/check_host.sh" "$python"
        echo "==> Making an environment for the check"
        if [[ -n $pack ]]; then
            if ! command -v cmake || ! command -v ninja; then
                echo "cmake and ninja are missing: a pack does not hold them." >&2
                exit 1
            fi
            where=(--no-index --find-links "$pack/wheels" -r "$wanted")
        else
            where=(-r "$root/requirements/build.txt" -r "$wanted")
        fi
        "$python" -m venv --clear --without-pip "$env"
        "$python" -m pip --python "$env/bin/python" install "${pip_options[@]}" "${where[@]}"
        cp "$wanted" "$env/requirements.txt"
    fi
    rm -f "$wanted"
}

case ${1:-} in
    pack) make_pack "${2:?where to? scripts/gpu_check.sh pack DIR}" "${3:-3.12}"; exit ;;
esac
make_environment
if [[ -n $pack && ! -e $folder/sources ]]; then
    mkdir -p "$folder/sources.part"
    tar -xzf "$pack/sources.tar.gz" -C "$folder/sources.part"
    mv "$folder/sources.part" "$folder/sources"
fi
exec "$env/bin/python" -m bench.gpu_check "$@"
