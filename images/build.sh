#!/usr/bin/env bash
# build.sh [cpu] [gpu] [test]: builds those images (`test` is the CPU image with pytest and the tests), tagged by git revision,
# and prints sizes and layers. Its environment, by way of engine.sh or yours: MMENC_BASE_IMAGE, MMENC_BUILD_IMAGE, TORCH,
# TORCH_INDEX, FLASH_ATTN, SOURCE (where the code is published, for the label).
set -euo pipefail
cd "$(dirname "$0")/.."
revision=${MMENC_REVISION:?is the git revision, as the Makefile hands it over}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
arguments=(--build-arg REVISION="$revision" --build-arg VERSION="$version" --build-arg SOURCE="${SOURCE:-unknown}")
for pair in BASE_IMAGE="${MMENC_BASE_IMAGE:-}" BUILD_IMAGE="${MMENC_BUILD_IMAGE:-}" TORCH="${TORCH:-}" \
  TORCH_INDEX="${TORCH_INDEX:-}"; do
  [ -z "${pair#*=}" ] || arguments+=(--build-arg "$pair")
done
for kind in "${@:-cpu}"; do
  file=images/$kind.Dockerfile
  only=()
  case $kind in
    test) file=images/cpu.Dockerfile only=(--target test) ;;
    gpu) [ -z "${FLASH_ATTN:-}" ] || only=(--build-arg FLASH_ATTN="$FLASH_ATTN") ;;
  esac
  tag=mmenc-$kind:$revision
  log=$(mktemp)
  # --network host: our own engine has no bridge, and an index may be reachable from the host only.
  docker build --network host --progress plain --file "$file" --tag "$tag" "${arguments[@]}" "${only[@]}" . >"$log" 2>&1 ||
    { tail -40 "$log"; rm "$log"; echo "build.sh: $tag could not be built" >&2; exit 1; }
  rm "$log"
  printf '\n%s  %s MB, built in %ss\n' "$tag" "$(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000))" "$SECONDS"
  docker history --format '{{.Size}}\t{{.CreatedBy}}' "$tag" | grep -v '^0B' | cut -c1-110
done
