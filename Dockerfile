# payonce in a small image: docker build -t payonce:local .
# What isn't in the base images comes from crates.io and nowhere else, as Cargo.lock has it, checksums included.
# What is in the program: docker run --rm --entrypoint cat payonce:local /usr/share/doc/payonce/dependencies.txt

# By tag, so that a build gets the fixes of the system in them. To build the same again, name them by what they
# are, which docker images --digests shows: --build-arg RUNTIME_IMAGE=debian:bookworm-slim@sha256:…
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

# ---- The dependencies, on a stub of the crate: built again only when Cargo.toml or Cargo.lock change.
FROM ${BUILD_IMAGE} AS dependencies
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
# Cargo refuses a manifest that declares a bench, example or test whose file it can't find. They aren't
# part of the program, so they leave the manifest, and their files stay out of the image.
RUN awk '/^\[/ { drop = /^\[\[(bench|example|test)\]\]/ } !drop' Cargo.toml >Cargo.kept && mv Cargo.kept Cargo.toml
RUN mkdir src && echo '//! A stub.' >src/lib.rs && printf '//! A stub.\nfn main() {}\n' >src/main.rs \
    && cargo build --locked --release \
    && rm -r src

# ---- The program.
FROM dependencies AS build
COPY build.rs ./
COPY src src
COPY migrations migrations
# Cargo goes by time, and a checkout may be older than the stub: without the touch, the stub would be the program.
RUN touch src/lib.rs src/main.rs && cargo build --locked --release
# Each crate that is built, with its version and licence.
RUN cargo tree --locked --edges normal,build --prefix none --no-dedupe --format '{p} {l}' | sort -u >dependencies.txt

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
