#!/usr/bin/env bash
# Runs understudy and its peers over a store-like tree in one run: initial, unchanged, four hours later, restore.
#
#     benches/compare.sh [DIR]        DIR: where to work, 15 GB free; default: a temporary directory
#
# Prints a table in Markdown: wall seconds, CPU seconds, peak memory, bytes in the target. Every step
# begins with the dirty pages written and the tree in the page cache. Peers come from Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=""
for program in rsync restic borg; do command -v $program >/dev/null || missing=yes; done
[ -x /usr/bin/time ] || missing=yes
if [ -n "$missing" ]; then apt-get update -qq; apt-get install -y -qq rsync restic borgbackup time >/dev/null; fi
cargo build --release --locked --quiet
understudy=$PWD/target/release/understudy
made=""
if [ $# -gt 0 ]; then work=$1; mkdir -p "$work"; else work=$(mktemp -d); made=$work; fi
trap '[ -z "$made" ] || rm -rf "$made"' EXIT
make=$PWD/benches/store_tree.py
cd "$work"
rm -rf store repo rs restic borg out-* home
python3 "$make" make store "${SCALE:-1}"
export HOME=$work/home UNDERSTUDY_REPOSITORY=$work/repo
export RESTIC_PASSWORD=x RESTIC_REPOSITORY=$work/restic
export BORG_PASSPHRASE=x BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
mkdir -p "$HOME"

# measure STEP TOOL TARGET COMMAND…: one row.
measure() {
  local step=$1 tool=$2 target=$3; shift 3
  find store -type f -print0 | xargs -0 cat >/dev/null; sync
  /usr/bin/time -o times -f '%e %U %S %M' "$@" >/dev/null 2>errors || { cat errors >&2; exit 1; }
  read -r wall user system memory < <(tail -1 times)
  local bytes; bytes=$(du -sb "$target" | cut -f1)
  awk -v step="$step" -v tool="$tool" -v w="$wall" -v u="$user" -v s="$system" -v m="$memory" -v b="$bytes" \
    'BEGIN { printf "| %s | %s | %.2f | %.2f | %.0f | %.1f |\n", step, tool, w, u + s, m / 1024, b / 1048576 }'
}

echo "$(nproc) cores, $(awk '/MemTotal/ {printf "%.0f", $2/1048576}' /proc/meminfo) GiB, kernel $(uname -r | cut -d. -f1,2), $(df --output=fstype . | tail -1); $(find store | wc -l) entries, $(du -sb --apparent-size store | cut -f1 | awk '{printf "%.0f", $1/1048576}') MiB"
dpkg-query -W -f '${Package} ${Version}\n' rsync restic borgbackup
echo
echo "| step | tool | wall s | CPU s | peak MiB | target MiB |"
echo "| --- | --- | ---: | ---: | ---: | ---: |"
restic init --quiet
borg init -e none borg
four() {
  measure "$1" understudy repo "$understudy" resync store --store acme --quiet
  measure "$1" rsync rs rsync -aHAX --delete store/ rs/
  measure "$1" restic restic restic backup --quiet store
  measure "$1" borg borg borg create "borg::$2" store
}
mkdir -p rs repo
four initial 1
sleep 1
four unchanged 2
python3 "$make" later store
four "four hours later" 3
measure restore understudy repo "$understudy" restore acme out-understudy --quiet
measure restore rsync rs rsync -aHAX rs/ out-rsync/
measure restore restic restic restic restore --quiet latest --target out-restic
mkdir out-borg
measure restore borg borg bash -c 'cd out-borg && borg extract ../borg::3'
# A figure for a wrong copy is worth nothing.
if rsync -aHAXn --delete --itemize-changes store/ out-understudy/ | grep .; then echo "the restored tree differs"; exit 1; fi
echo
echo "The restored tree is the source, by rsync's judgement."
