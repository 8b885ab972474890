# Builds and serves Nearline:
#   deploy/build-image.sh
#   docker run -p 50051:50051 -v nearline:/var/lib/nearline \
#     -e NEARLINE_ALLOW_PLAINTEXT=true nearline       on a network that you trust
# docs/operations.md: TLS, callers, upgrades.
#
# Pin the base for builds that can be repeated:
#   deploy/build-image.sh --build-arg BASE=debian@sha256:...
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS build
COPY deploy/apt-packages.txt /tmp/
RUN apt-get update \
 && xargs -a /tmp/apt-packages.txt apt-get install -y --no-install-recommends
WORKDIR /src
COPY . .
RUN cmake --preset release -DNEARLINE_TESTS=OFF \
 && cmake --build --preset release \
 && DESTDIR=/image cmake --install build/release --strip --component runtime
# The packages that hold the shared libraries the programs ask for.
RUN ldd /image/usr/local/bin/* | awk '$2 == "=>" { print $3 }' | sort -u \
  | xargs readlink -f | xargs -n 1 dpkg-query -S 2>/dev/null \
  | cut -d: -f1 | sort -u >/image/packages.txt \
 && grep -q libtorch /image/packages.txt

FROM ${BASE} AS runtime
COPY --from=build /image/packages.txt /tmp/
# LibTorch is a hundred times slower on the reference BLAS that it depends on.
RUN apt-get update \
 && xargs -a /tmp/packages.txt apt-get install -y --no-install-recommends \
      ca-certificates libopenblas0-pthread \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /tmp/packages.txt \
      /usr/share/doc/* /usr/share/man/* /usr/share/locale/* \
 && mkdir -p /var/lib/nearline && chown 10001:10001 /var/lib/nearline
COPY --from=build /image/usr/local /usr/local

# What is inside, for those who look for known holes.
FROM build AS inventory
ARG VERSION=0.1.0
COPY --from=runtime /var/lib/dpkg/status /tmp/status
RUN python3 deploy/sbom.py --status /tmp/status --version "${VERSION}" \
      >/tmp/sbom.spdx.json

FROM runtime
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Nearline" \
      org.opencontainers.image.description="A recommendation service that learns while it serves" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=inventory /tmp/sbom.spdx.json /usr/local/share/nearline/
# Other machines are listened to once there is TLS, or NEARLINE_ALLOW_PLAINTEXT.
ENV NEARLINE_LISTEN=0.0.0.0:50051 \
    NEARLINE_METRICS_LISTEN=0.0.0.0:9464 \
    NEARLINE_HEALTH_LISTEN=127.0.0.1:50052 \
    NEARLINE_DATA_DIR=/var/lib/nearline
# The root file system may be read-only: only the volume is written to.
USER 10001:10001
VOLUME /var/lib/nearline
EXPOSE 50051 9464
HEALTHCHECK --start-period=60s \
  CMD ["nearline", "--server", "127.0.0.1:50052", "--timeout", "2", "health"]
# SIGTERM drains.
ENTRYPOINT ["nearline-server"]
CMD ["--config", "/usr/local/share/nearline/nearline.yaml"]
