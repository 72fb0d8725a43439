#!/usr/bin/env bash
# Every level of tests, cheap failures first. Called by `make test`; the counts are its last lines.
# On a machine where nothing is built yet, what the two-node cluster is made of is built behind the first levels.
# Usage: all.sh REPORTS_FOLDER
set -euo pipefail
reports=$1
rm -rf "$reports"
mkdir -p "$reports"

declare -A running=()

level() { # run a make target, and say how long it took
  echo "=== make $1"
  local since=$SECONDS
  make --no-print-directory "$1"
  echo "=== make $1: $((SECONDS - since)) s"
}

start() { # run a make target in the background, its output in a file
  set -m # in a process group of its own, to be ended with all its children
  nice make --no-print-directory "$1" >"$reports/$1.log" 2>&1 </dev/null &
  set +m
  running[$1]=$!
}

finish() { # wait for it; on a failure show what it said
  local since=$SECONDS pid=${running[$1]}
  wait "$pid" || { tail -n 100 "$reports/$1.log"; echo "make $1 failed"; exit 1; }
  unset "running[$1]"
  echo "=== make $1: waited $((SECONDS - since)) s"
}

leave() { # end what still runs in the background, and the cluster if a failure left it
  for pid in "${running[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  if [[ $up ]]; then make --no-print-directory demo-down; fi
}
up=
trap leave EXIT

start tools # the compiler is busy while pip waits for the network
level lint
finish tools
start images # gigabytes of libraries
level test-unit
level test-numerics
level test-integration
finish images
up=yes
level test-e2e
level demo-down
up=
.venv/bin/python tests/summary.py "$reports"
