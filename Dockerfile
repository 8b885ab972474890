# Builds and serves Nearline:
#   deploy/build-image.sh             for CPUs
#   deploy/build-image.sh --cuda      for NVIDIA's GPUs as well
#   docker run -p 50051:50051 -v nearline:/var/lib/nearline \
#     -e NEARLINE_ALLOW_PLAINTEXT=true nearline       on a network that you trust
# docs/operations.md: TLS, callers, upgrades.
#
# Pin the base for builds that can be repeated:
#   deploy/build-image.sh --build-arg BASE=debian@sha256:...
ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS build
# Empty: Debian's LibTorch, for CPUs. none: no trainer, a server alone. Else
# PyPI's, with CUDA: torch==2.8.0 (2.7 or later).
ARG TORCH=
COPY deploy/apt-packages.txt /tmp/
RUN apt-get update \
 && if [ -n "${TORCH}" ]; then sed -i 's/^libtorch-dev$/python3-pip/' /tmp/apt-packages.txt; fi \
 && xargs -a /tmp/apt-packages.txt apt-get install -y --no-install-recommends patchelf
RUN case ${TORCH} in torch*) pip install --no-cache-dir --target /opt/wheels "${TORCH}" ;; esac
WORKDIR /src
COPY . .
RUN case ${TORCH} in \
      torch*) torch=-DNEARLINE_TORCH_WHEEL=/opt/wheels ;; \
      none) torch=-DNEARLINE_TORCH=OFF ;; \
    esac \
 && cmake --preset release -DNEARLINE_TESTS=OFF ${torch} \
 && cmake --build --preset release \
 && DESTDIR=/image cmake --install build/release --strip --component runtime
# A GPU is used where there is one. Of the wheels' libraries some are loaded by
# name, which ldd does not see.
RUN if [ -d /opt/wheels ]; then \
      sed -i 's/^device: cpu$/device: auto/' /image/usr/local/share/nearline/nearline.yaml \
      && mkdir -p /image/usr/local/lib/nearline && cd /opt/wheels \
      && find torch/lib nvidia -name '*.so*' ! -name '*python*' | tar -cT - \
       | tar -xC /image/usr/local/lib/nearline; \
    fi
# Debian's LibTorch asks for Z3's 28 MB, and calls nothing of it.
RUN file=$(find /usr/lib -name 'libtorch_cpu.so.*' -type f | head -n 1) \
 && if [ -n "${file}" ] && ! nm -D --undefined-only "${file}" | grep -q Z3_; then \
      patchelf --remove-needed libz3.so.4 "${file}"; \
    fi
# The programs' libraries, each under the name they ask for, with what every
# program expects of a system; nothing else, and no shell.
RUN ldd /image/usr/local/bin/* >/tmp/ldd && ! grep 'not found' /tmp/ldd \
 && /image/usr/local/bin/nearline-server --version \
 && grep -oE '/[^ ]+' /tmp/ldd | grep -v -e ':$' -e '^/image/' | sort -u >/tmp/libraries \
 && while read -r file; do \
      install -D "$(readlink -f "$file")" "/image/usr${file#/usr}"; \
    done </tmp/libraries \
 && ln -s usr/lib /image/lib && ln -s usr/lib64 /image/lib64 \
 && install -D /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && echo 'nearline:x:10001:10001:Nearline:/var/lib/nearline:/usr/sbin/nologin' >/image/etc/passwd \
 && echo 'nearline:x:10001:' >/image/etc/group \
 && echo 'hosts: files dns' >/image/etc/nsswitch.conf \
 && install -d -m 1777 /image/tmp && install -d -o 10001 -g 10001 /image/var/lib/nearline
# What is inside, for those who look for known holes.
ARG VERSION=0.1.0
RUN { xargs -n 1 readlink -f </tmp/libraries; cat /tmp/libraries; } \
  | xargs -n 1 dpkg-query -S 2>/dev/null | cut -d: -f1 | sort -u >/tmp/packages \
 && echo ca-certificates >>/tmp/packages \
 && python3 deploy/sbom.py --status /var/lib/dpkg/status --packages /tmp/packages \
      --wheels /opt/wheels --version "${VERSION}" >/image/usr/local/share/nearline/sbom.spdx.json

FROM scratch
COPY --from=build /image/ /
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Nearline" \
      org.opencontainers.image.description="A recommendation service that learns while it serves" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# What NVIDIA's container runtime brings in.
ARG GPUS=void
ENV NVIDIA_VISIBLE_DEVICES=${GPUS} \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Other machines are listened to once there is TLS, or NEARLINE_ALLOW_PLAINTEXT.
ENV PATH=/usr/local/bin \
    NEARLINE_LISTEN=0.0.0.0:50051 \
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
