# payonce in a small image: docker build -t payonce:local .
# What isn't in the base images comes from crates.io and nowhere else, as Cargo.lock has it, checksums included.
# What is in the program: docker run --rm --entrypoint cat payonce:local /usr/share/doc/payonce/dependencies.txt

# By tag, so that a build gets the fixes of the system in them. To build the same again, name them by what they
# are, which docker images --digests shows: --build-arg RUNTIME_IMAGE=debian:bookworm-slim@sha256:…
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# ---- The dependencies, with stubs of the workspace's crates: built again only when a manifest or Cargo.lock changes.
FROM ${BUILD_IMAGE} AS dependencies
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY crates/idempotency/Cargo.toml crates/idempotency/
COPY crates/storm/Cargo.toml crates/storm/
# These two are not part of the program, but cargo reads the manifests of all members.
COPY crates/testing/Cargo.toml crates/testing/
COPY crates/bench/Cargo.toml crates/bench/
# Cargo refuses a manifest that declares a bench, example or test whose file is missing. They are not part of the
# program, so they are removed from the manifests.
RUN for crate in . crates/*; do \
        awk '/^\[/ { drop = /^\[\[(bench|example|test)\]\]/ } !drop' $crate/Cargo.toml >Cargo.kept \
        && mv Cargo.kept $crate/Cargo.toml && mkdir $crate/src && echo '//! A stub.' >$crate/src/lib.rs \
        && printf '//! A stub.\nfn main() {}\n' >$crate/src/main.rs || exit 1; \
    done
RUN cargo build --locked --release --package payonce

# ---- The program.
FROM dependencies AS build
COPY build.rs ./
COPY src src
COPY migrations migrations
COPY crates/idempotency/src crates/idempotency/src
COPY crates/idempotency/migrations crates/idempotency/migrations
COPY crates/storm/src crates/storm/src
# Cargo goes by time, and a checkout may be older than the stubs: without the touch, the stubs would be the program.
RUN rm crates/*/src/main.rs && touch src/*.rs crates/*/src/lib.rs && cargo build --locked --release --package payonce
# Each crate that is built, with its version and licence.
RUN cargo tree --locked --package payonce --edges normal,build --prefix none --no-dedupe --format '{p} {l}' | sort -u >dependencies.txt

# ---- What runs.
FROM ${RUNTIME_IMAGE}
# For TLS to a managed database. Copied, since installing the package here would need Debian's mirrors and bring OpenSSL.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /build/target/release/payonce /usr/local/bin/
COPY --from=build /build/dependencies.txt /usr/share/doc/payonce/
# docker build --build-arg REVISION=$(git rev-parse HEAD) says from which sources it is.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="payonce" \
      org.opencontainers.image.description="Takes payments exactly once" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# A container's own loopback can't be published.
ENV HOST=0.0.0.0
EXPOSE 5000
# A number, so that Kubernetes can tell that it isn't root (runAsNonRoot). The program writes no files.
USER 10001:10001
STOPSIGNAL SIGTERM
# Ready, not just up. It gives up after 9 s by itself (with REQUEST_DEADLINE=10s) and says why. A first start may wait a
# minute for a migration's lock.
HEALTHCHECK --interval=5s --timeout=10s --start-period=90s --retries=3 CMD ["payonce", "healthcheck"]
ENTRYPOINT ["payonce"]
