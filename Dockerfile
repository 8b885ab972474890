# Builds and serves Nearline:
#   docker build -t nearline .
#   docker run -p 50051:50051 -p 9464:9464 -v nearline:/var/lib/nearline nearline
ARG DEBIAN=bookworm

FROM debian:${DEBIAN}-slim AS build
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

FROM debian:${DEBIAN}-slim
COPY --from=build /image/packages.txt /tmp/
# LibTorch is a hundred times slower on the reference BLAS that it depends on.
RUN apt-get update \
 && xargs -a /tmp/packages.txt apt-get install -y --no-install-recommends \
      ca-certificates libopenblas0-pthread \
 && rm -rf /var/lib/apt/lists/* /tmp/packages.txt \
 && useradd --system --uid 10001 --home-dir /var/lib/nearline --create-home nearline
COPY --from=build /image/usr/local /usr/local
ENV NEARLINE_LISTEN=0.0.0.0:50051 \
    NEARLINE_METRICS_LISTEN=0.0.0.0:9464 \
    NEARLINE_DATA_DIR=/var/lib/nearline
USER nearline
VOLUME /var/lib/nearline
EXPOSE 50051 9464
HEALTHCHECK CMD ["nearline", "status", "--timeout", "2"]
# SIGTERM drains.
ENTRYPOINT ["nearline-server"]
CMD ["--config", "/usr/local/share/nearline/nearline.yaml"]
