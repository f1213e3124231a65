#!/usr/bin/env bash
# Installs what the tests need, and passes them all: format, lints, tests, doc tests, the Dockerfile's shape.
# Needs root (owners, devices, small disks), Rust, Python 3, Node.js and npm.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tests/tools.sh
cargo fmt --check
cargo clippy --all-targets --locked -- -D warnings
if ! cargo nextest --version >/dev/null 2>&1; then
  # What it runs takes the time, and not it: it is built quickly, and need not update itself.
  cargo install --locked --debug --no-default-features --features default-no-update cargo-nextest
fi
cargo nextest run --locked --no-fail-fast
cargo test --doc --locked
target/test-tools/venv/bin/hadolint Dockerfile
