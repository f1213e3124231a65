# Builds a static-enough binary on Debian and ships it alone, as a user without privileges.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock understudy.sample.toml ./
COPY src src
COPY schedules schedules
RUN cargo build --release --locked && strip target/release/understudy

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/understudy /usr/local/bin/understudy
# Reading a store that belongs to others, and restoring owners, needs root: run with --user 0 and the
# capabilities DAC_READ_SEARCH (resync) or CHOWN, FOWNER, DAC_OVERRIDE, MKNOD, SETFCAP (restore).
USER 65532
ENV XDG_CACHE_HOME=/tmp/cache
ENTRYPOINT ["/usr/local/bin/understudy"]
CMD ["--help"]
