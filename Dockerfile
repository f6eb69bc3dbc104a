# payonce in a small image: docker build -t payonce:local .
# Everything outside the base images comes from crates.io, with the checksums of Cargo.lock.
# To list the program's crates: docker run --rm --entrypoint cat payonce:local /usr/share/doc/payonce/dependencies.txt

# Tags, so that a build gets the fixes of the base system. For a reproducible build, name digests, which
# docker images --digests shows: --build-arg RUNTIME_IMAGE=debian:bookworm-slim@sha256:…
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# ---- Dependencies, built with stubs of the workspace's crates: again only if a manifest or Cargo.lock changes.
FROM ${BUILD_IMAGE} AS dependencies
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY crates/idempotency/Cargo.toml crates/idempotency/
COPY crates/storm/Cargo.toml crates/storm/
# These are not part of the program, but cargo reads the manifests of all members.
COPY crates/model/Cargo.toml crates/model/
COPY crates/testing/Cargo.toml crates/testing/
COPY crates/bench/Cargo.toml crates/bench/
COPY examples/coupons/Cargo.toml examples/coupons/
# Cargo refuses a manifest that declares a bench, example or test whose file is missing. They are not part of the
# program, so they are removed from the manifests.
RUN for crate in . crates/* examples/*; do \
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
COPY crates/idempotency crates/idempotency
COPY crates/storm crates/storm
# Cargo compares times, and a checkout may be older than the stubs. Without the touch the stubs would be the program.
RUN rm crates/idempotency/src/main.rs crates/storm/src/main.rs && touch src/*.rs crates/*/src/lib.rs \
    && cargo build --locked --release --package payonce
# Every crate in the program, with version and licence.
RUN cargo tree --locked --package payonce --edges normal,build --prefix none --no-dedupe --format '{p} {l}' | sort -u >dependencies.txt

# ---- The image.
FROM ${RUNTIME_IMAGE}
# For TLS to a managed database. Installing the package instead would need Debian's mirrors and bring OpenSSL.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /build/target/release/payonce /usr/local/bin/
COPY --from=build /build/dependencies.txt /usr/share/doc/payonce/
# Names the sources: docker build --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=unknown
LABEL org.opencontainers.image.title="payonce" \
      org.opencontainers.image.description="Creates payments exactly once" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# A container's loopback address cannot be published.
ENV HOST=0.0.0.0
EXPOSE 5000
# A number, so that Kubernetes can see that it is not root (runAsNonRoot). The program writes no files.
USER 10001:10001
STOPSIGNAL SIGTERM
# Readiness, not liveness. It ends by itself after 9 s (with REQUEST_DEADLINE=10s) and prints the reason. A first start
# may wait a minute for a migration's lock.
HEALTHCHECK --interval=5s --timeout=10s --start-period=90s --retries=3 CMD ["payonce", "healthcheck"]
ENTRYPOINT ["payonce"]
