#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#   deploy/test.sh          all tests but the long ones
#   deploy/test.sh --all    also trains on real data and checks the quality
. "$(dirname "$0")/common.sh"

all=false
for argument in "$@"; do
  case $argument in
    --all) all=true ;;
    -h | --help) sed -n '2,4s/^# \?//p' "$0"; exit 0 ;;
    *) die "unknown argument $argument; see --help" ;;
  esac
done

install_packages
build dev
say "Testing"
cd "$ROOT"
if $all; then
  ctest --test-dir build/dev --output-on-failure
else
  ctest --preset dev
fi || die "a test failed (above); run it alone with: ctest --preset dev -R NAME"
say "All tests passed"
