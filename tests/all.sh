#!/usr/bin/env bash
# Installs what the tests need and passes them all. Needs root (devices, owners, full disks) and Rust.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --check
cargo clippy --all-targets --locked -- -D warnings
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --no-fail-fast
else
  cargo test --locked --all-targets
fi
cargo test --doc --locked
