#!/usr/bin/env bash
# `make lock`: writes requirements.txt (what the images install) and requirements-test.txt (what their test target adds),
# with the hash of every file, in the versions of constraints.txt. torch and what only its CUDA builds need stay out: they
# differ per machine, and the Dockerfiles' argument TORCH brings them.
set -euo pipefail
cd "$(dirname "$0")/.."
torch=${TORCH:-torch==2.13.0}
lock() { # OUT SOURCE [OPTIONS]
  local out=$1 skip=()
  shift
  compile() {
    uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 \
      --python-platform x86_64-manylinux_2_28 --constraints constraints.txt --constraints <(echo "$torch") "$@"
  }
  for name in $(compile "$@" | grep -oE '^(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==' | tr -d '='); do
    skip+=(--no-emit-package "$name")
  done
  {
    echo "# Made by \`make lock\`; torch and the packages of its CUDA builds are installed apart."
    compile "$@" "${skip[@]}"
  } >"$out.part"
  mv "$out.part" "$out"
}
asked=$(mktemp)
trap 'rm -f images/*.part "$asked"' EXIT
printf '%s\n' pytest pytest-timeout hypothesis lxml >"$asked"
lock images/requirements.txt pyproject.toml --extra image
lock images/requirements-test.txt "$asked"
