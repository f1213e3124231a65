#!/usr/bin/env bash
# Passes the tests of databases with MariaDB 11.8, Debian trixie's, on a machine that has another one: in an overlay of
# its root with trixie's packages on top, which are taken from Debian's mirror. Needs root. Arguments go to nextest.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$PWD/target/test-tools/mariadb-11.8
if [ "${1:-}" != --inside ]; then
  if [ ! -x "$place/root/usr/sbin/mariadbd" ]; then
    rm -rf "$place"
    mkdir -p "$place"/{lists/partial,archives/partial,unpacked}
    : > "$place/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
      > "$place/sources.list"
    options=(-o "Dir::Etc::SourceList=$place/sources.list" -o Dir::Etc::SourceParts=/dev/null
      -o "Dir::State::Lists=$place/lists" -o "Dir::State::Status=$place/status" -o "Dir::Cache=$place")
    apt-get "${options[@]}" --quiet update
    apt-get "${options[@]}" --quiet --yes --no-install-recommends --download-only \
      install mariadb-server-core mariadb-client mariadb-backup openssl
    for package in "$place"/archives/*.deb; do
      dpkg-deb --extract "$package" "$place/unpacked"
    done
    mv "$place/unpacked" "$place/root"
  fi
  cargo nextest run --locked --no-run
  exec unshare --mount --propagation private bash "$0" --inside "$@"
fi
shift
merged=$place/merged
mkdir -p "$merged"
mount -t tmpfs none "$merged"
mkdir "$merged"/{lower,upper,work,root}
# The lower directories of an overlay lie on different filesystems here, since one is the root of all.
cp -a "$place/root/." "$merged/lower/"
mount -t overlay overlay -o "lowerdir=$merged/lower:/,upperdir=$merged/upper,workdir=$merged/work" "$merged/root"
for dir in dev proc sys tmp run "$HOME" "$PWD"; do
  mkdir -p "$merged/root/$dir"
  mount --rbind "/${dir#/}" "$merged/root/$dir"
done
exec chroot "$merged/root" bash -c 'cd "$1"; shift; mariadbd --version; exec cargo nextest run --locked --no-fail-fast "$@"' \
  bash "$PWD" -E 'test(/^(archive|database|semi_sync)/)' "$@"
