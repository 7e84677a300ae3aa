#!/usr/bin/env bash
# Makes the virtual environment and installs the locked packages and this project into it.
#
#   scripts/make_venv.sh [FOLDER] [LOCK]      defaults: .venv requirements-cpu.lock
#
# Takes the newest of Python 3.11, 3.10, 3.9 that runs and can make environments; PYTHON=/path/to/python chooses one.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
lock=${2:-requirements-cpu.lock}
versions="3.11 3.10 3.9"

fail() {
    printf 'facetrain needs Python 3.9, 3.10 or 3.11: %s\n' "$1" >&2
    exit 1
}

# Prints "3.11 venv" or "3.11 bare" if the interpreter runs, nothing if it does not: version managers leave commands
# behind that exist and only print an error.
describe() {
    "$1" -c 'if True:
        import sys
        try:
            import ensurepip, venv
            able = "venv"
        except ImportError:
            able = "bare"
        print("%d.%d" % sys.version_info[:2], able)' 2>/dev/null || true
}

find_python() {
    local candidate path found seen="" bare=""
    if [ -n "${PYTHON:-}" ]; then
        found=$(describe "$PYTHON")
        [ -n "$found" ] || fail "PYTHON=$PYTHON does not run."
        case " $versions " in
            *" ${found% *} "*) ;;
            *) fail "PYTHON=$PYTHON is Python ${found% *}." ;;
        esac
        [ "${found#* }" = venv ] || fail "PYTHON=$PYTHON has no venv module (Debian: apt-get install python${found% *}-venv)."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in $(printf 'python%s ' $versions) python3 python; do
        for path in $(type -aP "$candidate" || true); do
            found=$(describe "$path")
            if [ -z "$found" ]; then
                seen="$seen $path (does not run)"
                continue
            fi
            case " $versions " in
                *" ${found% *} "*)
                    if [ "${found#* }" = venv ]; then
                        printf '%s\n' "$path"
                        return
                    fi
                    bare=${bare:-${found% *}}
                    seen="$seen $path (${found% *}, no venv module)"
                    ;;
                *) seen="$seen $path (${found% *})" ;;
            esac
        done
    done
    if [ -n "$bare" ]; then
        fail "Python $bare is here without its venv module (Debian: apt-get install python$bare-venv). Found:$seen."
    fi
    fail "none is on the PATH. Install one (Debian: apt-get install python3.11 python3.11-venv), or name one with PYTHON=/path/to/python3.11. Found:${seen:- no Python at all}."
}

# An environment is kept if it works and nobody asked for another Python.
usable() {
    local found
    [ -x "$venv/bin/python" ] || return 1
    found=$(describe "$venv/bin/python")
    case " $versions " in
        *" ${found% *} "*) ;;
        *) return 1 ;;
    esac
    [ -z "${PYTHON:-}" ] || [ "${found% *}" = "$(describe "$PYTHON" | cut -d' ' -f1)" ]
}

if ! usable; then
    python=$(find_python)
    printf 'making %s with %s\n' "$venv" "$python"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
rm -f "$venv/.locked"
printf 'installing %s into %s (some minutes the first time)\n' "$lock" "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --no-input --quiet"
# The lock is complete, so nothing has to be resolved. It holds tensorflow-cpu, which fulfils what this project means by
# tensorflow without being called so: hence --no-deps in the second line too.
$pip install --no-deps --requirement "$lock"
$pip install --no-deps --no-build-isolation --editable .
touch "$venv/.locked"
