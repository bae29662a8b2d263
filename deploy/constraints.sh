#!/bin/sh
# Resolve the ranges of pyproject.toml in a fresh environment and write constraints.txt from what came out.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check hatchling editables
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[torch,mqtt,dev]'
{
    sed '/^[^#]/,$d' constraints.txt
    # A local version such as +cpu names one build of a release; the constraint is on the release.
    "$scratch/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$//'
} >"$scratch/constraints.txt"
mv "$scratch/constraints.txt" constraints.txt
