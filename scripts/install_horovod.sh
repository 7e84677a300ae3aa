#!/usr/bin/env bash
# Builds Horovod against the TensorFlow of an environment, keeps the wheel, installs it and tries it out.
#
#   scripts/install_horovod.sh [cpu|gpu]      default: cpu (Gloo); gpu adds NCCL and needs the CUDA toolkit
#
# PYTHON                   interpreter of the environment; default .venv/bin/python
# FACETRAIN_WHEEL_CACHE    where wheels are kept; default ~/.cache/facetrain/wheels. A build takes 2 to 5 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.28.1
kind=${1:-cpu}
log=

say() { printf 'horovod: %s\n' "$1" >&2; }

fail() {
    say "$1"
    exit 1
}

case "$kind" in
    cpu | gpu) ;;
    *) fail "the kind of build must be cpu or gpu, received '$kind'" ;;
esac
python=${PYTHON:-.venv/bin/python}
python=$(command -v "$python") || python=${PYTHON:-.venv/bin/python}
case "$python" in
    /*) ;;
    *) python=$PWD/$python ;; # the build changes folders
esac
"$python" -c '' 2>/dev/null ||
    fail "$python does not run: make .venv with 'make setup', or set PYTHON to an interpreter"

# Prints e.g. cp311-tf2.15.1-x86_64: what a wheel fits.
fingerprint() {
    "$python" - <<'EOF'
import importlib.metadata
import platform
import sys

for name in ("tensorflow", "tensorflow-cpu"):
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    print("cp%d%d-tf%s-%s" % (*sys.version_info[:2], version, platform.machine()))
    break
EOF
}

# Starts Horovod as a single process. Whoever runs this inside a Horovod job must not become a rank of it.
works() {
    local name ignore=()
    for name in $(compgen -e HOROVOD_ || true); do ignore+=(-u "$name"); done
    env ${ignore[@]+"${ignore[@]}"} TF_CPP_MIN_LOG_LEVEL=3 "$python" -c "
import importlib.metadata
assert importlib.metadata.version('horovod') == '$version'
import horovod.tensorflow as hvd
hvd.init()
assert hvd.size() == 1 and hvd.gloo_built()
assert '$kind' == 'cpu' or hvd.nccl_built()
"
}

install() {
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$1"
}

# Compilers: installed on Debian where we may, named otherwise.
need_tools() {
    local missing=() tool
    for tool in g++ cmake make; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "installing ${missing[*]} with apt-get"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y "${missing[@]}"; } >/dev/null ||
            fail "apt-get could not install ${missing[*]}: install them and run this again"
    elif command -v apt-get >/dev/null; then
        fail "the build needs ${missing[*]}: run 'sudo apt-get install ${missing[*]}' and then this again"
    else
        fail "the build needs ${missing[*]}: install them with your system's package manager and run this again"
    fi
}

# What Horovod's build and run-time import, absent from a hand-made environment only.
need_modules() {
    local missing
    missing=$("$python" - <<'EOF'
import importlib.util

modules = {"setuptools": "setuptools<81", "yaml": "pyyaml"}
modules.update((name, name) for name in ("wheel", "packaging", "cloudpickle", "psutil", "cffi"))
print(" ".join(package for module, package in modules.items() if importlib.util.find_spec(module) is None))
EOF
    )
    [ -z "$missing" ] || {
        say "installing $missing"
        # shellcheck disable=SC2086  # a list of packages
        "$python" -m pip install --quiet --disable-pip-version-check $missing
    }
}

# NCCL's headers and library come with tensorflow[and-cuda], but without the name that a linker looks for.
prepare_gpu() {
    command -v "${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc" >/dev/null || command -v nvcc >/dev/null ||
        fail "a gpu build needs the CUDA toolkit: nvcc is neither in HOROVOD_CUDA_HOME, /usr/local/cuda nor on the PATH"
    export HOROVOD_GPU_OPERATIONS=NCCL
    [ -z "${HOROVOD_NCCL_HOME:-}${HOROVOD_NCCL_INCLUDE:-}" ] || return 0
    local nccl
    nccl=$("$python" -c 'import nvidia.nccl; print(next(iter(nvidia.nccl.__path__)))' 2>/dev/null) || true
    [ -n "$nccl" ] || return 0
    mkdir -p "$work/nccl"
    ln -sf "$nccl/lib/libnccl.so.2" "$work/nccl/libnccl.so"
    export HOROVOD_NCCL_INCLUDE=$nccl/include HOROVOD_NCCL_LIB=$work/nccl HOROVOD_NCCL_LINK=SHARED
}

build() {
    need_tools
    need_modules
    [ "$kind" = cpu ] || prepare_gpu
    log=$work/build.log
    say "building $version for $fits ($kind), which takes 2 to 5 minutes on two cores"
    # Without build isolation, which would hide TensorFlow; CMake 4 refuses the old minimum that Horovod states.
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 \
        HOROVOD_WITHOUT_MPI=1 CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="${MAKEFLAGS:--j$(nproc)}" \
        PATH="$(dirname "$python"):$PATH" \
        "$python" -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps --no-cache-dir \
        --wheel-dir "$work/wheel" "horovod==$version" >"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        cp "$log" "${TMPDIR:-/tmp}/horovod-build.log"
        fail "the build failed; the whole log is in ${TMPDIR:-/tmp}/horovod-build.log"
    }
    mv -f "$work"/wheel/horovod-*.whl "$cache/"
}

fits=$(fingerprint)
[ -n "$fits" ] ||
    fail "$python has no TensorFlow: install it first, Horovod is built against it ('make setup' does both)"
if works >/dev/null 2>&1; then
    say "$version ($kind) is installed and works"
    exit 0
fi
cache=${FACETRAIN_WHEEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/facetrain/wheels}/$fits-$kind
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheel=$(find "$cache" -maxdepth 1 -name "horovod-$version-*.whl" | head -n 1)
if [ -n "$wheel" ]; then
    say "installing $wheel"
    need_modules
    if install "$wheel" && works >/dev/null 2>&1; then
        say "$version ($kind) is installed and works"
        exit 0
    fi
    say "the kept wheel does not work here, so it is built anew"
    rm -f "$wheel"
fi
build
wheel=$(find "$cache" -maxdepth 1 -name "horovod-$version-*.whl" | head -n 1)
install "$wheel"
works || fail "$wheel was built and installed, but does not start; the error stands above"
say "$version ($kind) is installed and works; the wheel is kept in $cache"
