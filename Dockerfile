# Builds in one image, runs in another that holds the binary, the certificates of public authorities, and a user that
# is not root.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential perl && rm -rf /var/lib/apt/lists/*
WORKDIR /floodmark
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/floodmark/target \
    cargo build --release --locked --bin floodmark && cp target/release/floodmark /usr/local/bin/

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/floodmark floodmark
COPY --from=build /usr/local/bin/floodmark /usr/local/bin/floodmark
USER floodmark
WORKDIR /var/lib/floodmark
VOLUME /var/lib/floodmark
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD curl -fsS http://127.0.0.1:8000/health || exit 1
ENTRYPOINT ["floodmark"]
CMD ["run", "-c", "/etc/floodmark/floodmark.toml"]
