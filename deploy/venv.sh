#!/bin/sh
# Make or refresh the virtual environment that `make` works in:  deploy/venv.sh DIRECTORY EXTRAS
#
# Needs no root, no compiler and no network but the package index, and says in one sentence what is missing.
# Versions come from constraints.txt, the build back end's as well, which is why build isolation is off.
# PYTHON chooses the interpreter; pip's own configuration chooses the index.
set -eu
cd "$(dirname "$0")/.."
venv=$1
extras=$2
need_mib=2500

fail() {
    echo "setup: $1" >&2
    exit 1
}

usable() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is missing: install it (Debian: apt-get install python3 python3-venv) or set PYTHON=/path/to/it."
}

create() {
    python=$(find_python) || exit 1
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "Python's venv module is missing: install it (Debian: apt-get install python3-venv)."
    mkdir -p "$venv" 2>/dev/null || fail "$venv cannot be created: choose another place with VENV=DIRECTORY."
    free_mib=$(df -Pm "$venv" | awk 'NR == 2 {print $4}')
    [ "$free_mib" -ge "$need_mib" ] ||
        fail "$free_mib MiB are free for $venv and $need_mib MiB are needed: free some or set VENV=DIRECTORY elsewhere."
    "$python" -m venv "$venv"
}

pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@" ||
        fail "pip could not install the packages: see its message above; it needs the package index, once."
}

usable "$venv/bin/python" || create
pip_install hatchling editables
pip_install --no-build-isolation --editable ".[$extras]"
