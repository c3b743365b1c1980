#!/usr/bin/env bash
# A Docker engine for `make images` and `make test-containers`: the one that runs, else one of our own (Debian 12, root).
#   engine.sh run CMD …   runs CMD with an engine and base images; afterwards ends our own if nobody else uses it
#   engine.sh up | down   starts our own and leaves it running (prints the variables to export) | ends it
# CMD finds DOCKER_HOST, DOCKER_CONFIG, and in MMENC_BASE_IMAGE and MMENC_BUILD_IMAGE what images/build.sh builds on.
# Our own engine has no bridge and changes no firewall rule; all it owns lies in one folder, MMENC_ENGINE. That folder is
# kept: the second call finds the root file system, the images and the build cache there.
set -euo pipefail
WORK=${MMENC_ENGINE:-${TMPDIR:-/tmp}/mmenc-engine}
BASE=python:3.11-slim
STAND_IN=mmenc-stand-in
OWN=unix://$WORK/docker.sock

say() { printf '[%3ds] %s\n' "$SECONDS" "$*" >&2; }
fail() { printf 'engine.sh: %s\n' "$*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }

# Debian's client builds with BuildKit by itself; one that comes first on PATH may lack the buildx plugin it would need.
client() {
  export DOCKER_BUILDKIT=1
  if ! docker build --help 2>/dev/null | grep -e --progress >/dev/null && [ -x /usr/bin/docker ]; then
    mkdir -p "$WORK/bin"
    ln -sf /usr/bin/docker "$WORK/bin/docker"
    export PATH=$WORK/bin:$PATH
  fi
}

use_own() {
  export DOCKER_HOST=$OWN DOCKER_CONFIG=$WORK/config
  mkdir -p "$DOCKER_CONFIG"
}

packages() {
  for word in dockerd mmdebstrap; do command -v $word >/dev/null || missing=1; done
  [ -n "${missing:-}" ] || return 0
  say "installing docker.io and mmdebstrap"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io mmdebstrap >"$WORK/apt.log" 2>&1 ||
    { tail -5 "$WORK/apt.log" >&2; fail "docker.io and mmdebstrap could not be installed"; }
}

start() {
  answers && return
  use_own
  answers && return
  if [ "$(id -u)" != 0 ] || ! grep -qs VERSION_CODENAME=bookworm /etc/os-release; then
    fail "no Docker engine answers; start one (on Debian 12, as root, one is started by itself)"
  fi
  mkdir -p "$WORK"
  packages
  say "starting dockerd in $WORK"
  # setsid: Ctrl-C reaches the tests first, which still need the engine to remove their containers.
  setsid dockerd --host "$DOCKER_HOST" --data-root "$WORK/data" --exec-root "$WORK/exec" --pidfile "$WORK/docker.pid" \
    --storage-driver overlay2 --bridge none --iptables=false --ip-masq=false --ip-forward=false \
    >"$WORK/dockerd.log" 2>&1 </dev/null 8>&- 9>&- &
  for _ in $(seq 120); do
    answers && return
    kill -0 $! 2>/dev/null || break
    sleep 0.5
  done
  tail -5 "$WORK/dockerd.log" >&2
  fail "dockerd did not start; its log is $WORK/dockerd.log"
}

stop() { # by the number that it wrote itself, so that nobody else's engine ends
  local pid
  pid=$(cat "$WORK/docker.pid" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 120); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.25; done
  fail "dockerd (process $pid) did not end within 30 s"
}

# The last call that uses our engine ends it, also one that an earlier, killed call left; `up` asks to keep it.
leave() {
  [ "${DOCKER_HOST:-}" = "$OWN" ] || return 0
  flock --unlock 8
  flock 9
  if [ ! -e "$WORK/keep" ] && flock --nonblock 8; then stop; fi
}

root_file_system() {
  [ -s "$WORK/root.tar" ] && return
  command -v mmdebstrap >/dev/null || packages
  say "making a Debian root file system with Python"
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv \
    --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$WORK/root.part.tar" /etc/apt/sources.list.d/debian.sources ||
    fail "no registry answers for $BASE, and no Debian root file system could be made in its place"
  mv "$WORK/root.part.tar" "$WORK/root.tar"
}

# Where no registry can be reached, Debian's Python 3.11 stands in for $BASE. Two images: `base` is bare and is what the
# result is built on; `build` has in addition this machine's CA bundle, pip index and local wheels (a CPU build of torch
# may lie in PIP_FIND_LINKS). Neither is ever pushed, and nothing of `build` reaches a result.
stand_in() {
  export MMENC_BASE_IMAGE=$STAND_IN:base MMENC_BUILD_IMAGE=$STAND_IN:build
  [ -f /etc/apt/sources.list.d/debian.sources ] || fail "cannot pull $BASE; a stand-in can be made on Debian 12 only"
  if ! docker image inspect "$STAND_IN:bare" >/dev/null 2>&1; then
    root_file_system
    docker import --change 'ENV LANG=C.UTF-8' "$WORK/root.tar" "$STAND_IN:bare" >/dev/null
  fi
  local context=$WORK/stand-in
  mkdir -p "$context/wheels"
  cp /etc/ssl/certs/ca-certificates.crt "$context/"
  if [ -d "${PIP_FIND_LINKS:-}" ]; then cp --update "$PIP_FIND_LINKS"/*.whl "$context/wheels/" 2>/dev/null || true; fi
  {
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nfind-links = /opt/wheels\ndisable-pip-version-check = true\n'
    # A folder of this machine means nothing inside; an index does.
    grep -hE '^ *(extra-)?index-url *= *http' /etc/pip.conf 2>/dev/null || true
    [ -z "${PIP_INDEX_URL:-}" ] || printf 'index-url = %s\n' "$PIP_INDEX_URL"
  } >"$context/pip.conf"
  cat >"$context/Dockerfile" <<'END'
FROM mmenc-stand-in:bare AS base
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
CMD ["python3"]
FROM base AS build
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
COPY wheels /opt/wheels
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
END
  for target in base build; do
    docker build --quiet --network none --target $target --tag "$STAND_IN:$target" "$context" >/dev/null
  done
}

bases() {
  if [ -n "${MMENC_BASE_IMAGE:-}" ]; then return; fi
  if docker image inspect "$BASE" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$BASE" >/dev/null 2>&1; then
    export MMENC_BASE_IMAGE=$BASE MMENC_BUILD_IMAGE=$BASE
  else
    stand_in
  fi
}

ready() {
  mkdir -p "$WORK"
  exec 8>"$WORK/users" 9>"$WORK/lock"
  flock 9 # two calls at once: the second waits for the engine of the first
  start
  flock --shared 8
  client
  bases
  flock --unlock 9
}

case ${1:-} in
  up)
    ready
    touch "$WORK/keep"
    for name in PATH DOCKER_HOST DOCKER_CONFIG DOCKER_BUILDKIT MMENC_BASE_IMAGE MMENC_BUILD_IMAGE; do
      [ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    ;;
  down)
    rm -f "$WORK/keep"
    stop
    ;;
  run)
    shift
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    ready
    "$@"
    ;;
  *) fail "usage: engine.sh run CMD … | up | down" ;;
esac
