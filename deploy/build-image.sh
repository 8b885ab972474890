#!/usr/bin/env bash
# Builds the container image with docker, podman or buildah, whichever is there.
#   deploy/build-image.sh                        nearline:VERSION and nearline:latest
#   deploy/build-image.sh --cuda                 nearline-cuda, with PyPI's torch: uses an NVIDIA GPU
#                                                if there is one (docker run --gpus all)
#   deploy/build-image.sh --serving              nearline-serving: no trainer and no LibTorch, which is
#                                                most of the size; for a trainer in a container of its own
#   deploy/build-image.sh --tag registry/nearline
#   deploy/build-image.sh --build-arg BASE=debian@sha256:...   anything else is handed on
. "$(dirname "$0")/common.sh"

tag=
kind=
extra=()
while [ $# -gt 0 ]; do
  case $1 in
    --tag) [ $# -gt 1 ] || die "--tag needs a name"; tag=$2; shift ;;
    --cuda)
      kind=-cuda
      extra+=(--build-arg TORCH=torch==2.8.0 --build-arg GPUS=all) ;;
    --serving) kind=-serving; extra+=(--build-arg TORCH=none) ;;
    -h | --help) sed -n '2,9s/^# \?//p' "$0"; exit 0 ;;
    *) extra+=("$1") ;;
  esac
  shift
done

cd "$ROOT"
tag=${tag:-nearline$kind}
version=$(sed -n 's/^project(nearline VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
revision=$(git rev-parse HEAD 2>/dev/null || true)
arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision"
  --tag "$tag:$version" --tag "$tag:latest" "${extra[@]}" .)
for tool in docker podman buildah; do
  command -v $tool >/dev/null || continue
  $tool info >/dev/null 2>&1 || { say "$tool is there, but does not answer: trying the next"; continue; }
  say "Building $tag:$version with $tool (this compiles everything once)"
  [ $tool = podman ] && arguments=(--format docker "${arguments[@]}")  # for HEALTHCHECK
  [ $tool = buildah ] && arguments=(--format docker --layers "${arguments[@]}")
  $tool build "${arguments[@]}"
  say "Built $tag:$version"
  exit 0
done
die "install docker, podman or buildah, or start docker"
