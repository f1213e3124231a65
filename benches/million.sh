#!/usr/bin/env bash
# Peak memory and time at 1,000,000 entries: initial, unchanged, restore.
#
#     benches/million.sh [DIR]        DIR: where to work, 12 GB free; default: a temporary directory
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x /usr/bin/time ] || { apt-get update -qq; apt-get install -y -qq time >/dev/null; }
cargo build --release --locked --quiet
understudy=$PWD/target/release/understudy
made=""
if [ $# -gt 0 ]; then work=$1; mkdir -p "$work"; else work=$(mktemp -d); made=$work; fi
trap '[ -z "$made" ] || rm -rf "$made"' EXIT
[ -d "$work/million" ] || python3 benches/store_tree.py million "$work/million"
cd "$work"
rm -rf repo-million out-million home
export HOME=$work/home UNDERSTUDY_REPOSITORY=$work/repo-million
mkdir -p "$HOME"
echo "| step, $(find million | wc -l) entries | wall s | CPU s | peak MiB |"
echo "| --- | ---: | ---: | ---: |"
measure() {
  local step=$1; shift
  sync
  /usr/bin/time -o times -f '%e %U %S %M' "$@" >/dev/null
  read -r wall user system memory < <(tail -1 times)
  awk -v step="$step" -v w="$wall" -v u="$user" -v s="$system" -v m="$memory" \
    'BEGIN { printf "| %s | %.1f | %.1f | %.0f |\n", step, w, u + s, m / 1024 }'
}
measure initial "$understudy" resync million --store million --quiet
sleep 1
measure unchanged "$understudy" resync million --store million --quiet
measure restore "$understudy" restore million out-million --quiet
