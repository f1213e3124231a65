# Builds the binary and ships it on a slim Debian, as a user without privileges. `--target database` adds MariaDB's
# programs, for the server of a store and for the daemon of its primary, which makes seeds and archives.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock understudy.sample.toml ./
COPY src src
COPY schedules schedules
RUN cargo build --release --locked && strip target/release/understudy

FROM debian:bookworm-slim AS base
# Certificates to know the object store by.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/release/understudy /usr/local/bin/understudy
# Reading a store that belongs to others, and restoring owners, needs root: run with --user 0 and the
# capabilities DAC_READ_SEARCH (resync) or CHOWN, FOWNER, DAC_OVERRIDE, MKNOD, SETFCAP (restore).
# `run --listen 0.0.0.0:9184` answers here.
EXPOSE 9184
USER 65532
# The key of encrypted stores is mounted there: one that is made in a container would go with it, so none is.
ENV UNDERSTUDY_KEY_FILE=/run/secrets/understudy/key
ENV XDG_CACHE_HOME=/tmp/cache XDG_DATA_HOME=/tmp/data XDG_STATE_HOME=/tmp/state
ENTRYPOINT ["/usr/local/bin/understudy"]
CMD ["--help"]

FROM base AS database
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends mariadb-server-core mariadb-client mariadb-backup && rm -rf /var/lib/apt/lists/*
# Volumes that are made over these directories belong to the server's user.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/understudy-database && install -d -o 65532 -g 65532 /run/mysqld
# `database run` needs a user of its own, and no capability.
USER 65532

# The last one is what is built without --target.
FROM base
