#!/usr/bin/env bash
# The GPU check on a machine that has a GPU, Python 3.12 and torch, but no network and not every package.
#
#   benchmarks/gpu_check.sh wheels [FOLDER]      with a network, before: gather what such a machine lacks (default .whl)
#   benchmarks/gpu_check.sh [--out FILE ...]     there: take those wheels and run gpu_check.py with these arguments
#
# The wheels lie in WHEELS (default .whl, which git ignores) and may take 64 MiB in all; they are installed into a
# temporary folder, nothing else on the machine changes. PYTHON (default python3) is the interpreter.
set -euo pipefail
shopt -s nocaseglob # PyYAML-6.0.whl is pyyaml's
cd "$(dirname "$0")/.."

# Of the dependencies in pyproject.toml, those the check imports and such a machine may lack: package=module.
PACKAGES=(omegaconf=omegaconf simplejpeg=simplejpeg pyyaml=yaml)
LARGEST=$((64 * 1024 * 1024))
WHEELS=${WHEELS:-.whl}
PYTHON=${PYTHON:-python3}

gather() {
    local folder=$1 tags=() tag size
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux2010 manylinux1; do
        tags+=(--platform "${tag}_x86_64")
    done
    mkdir -p "$folder"
    rm -f "$folder"/*.whl
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${tags[@]}" --dest "$folder" "${PACKAGES[@]%=*}"
    size=$(du -cb "$folder"/*.whl | tail -1 | cut -f1)
    if ((size > LARGEST)); then
        echo "the wheels take $size bytes, more than $LARGEST" >&2
        exit 1
    fi
    echo "$size bytes in $folder:" && ls "$folder"
}

# What of PACKAGES this interpreter lacks, one a line. Only those are taken: a wheel is for Python 3.12 alone.
missing() {
    "$PYTHON" - "${PACKAGES[@]}" <<'PY'
import importlib.util, sys
pairs = [argument.split("=") for argument in sys.argv[1:]]
print("\n".join(package for package, module in pairs if importlib.util.find_spec(module) is None))
PY
}

check() {
    local lacking name
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    lacking=$(missing)
    for name in $lacking; do
        if ! compgen -G "$WHEELS/$name-*.whl" >/dev/null; then
            echo "$name is not installed and $WHEELS has no wheel of it: run '$0 wheels' where there is a network" >&2
            exit 1
        fi
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS/$name"-*.whl
    done
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
    "$PYTHON" benchmarks/gpu_check.py "$@"
}

if [[ ${1:-} == wheels ]]; then
    gather "${2:-$WHEELS}"
else
    check "$@"
fi
