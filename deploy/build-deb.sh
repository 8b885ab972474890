#!/usr/bin/env bash
# Builds a Debian package for the release of Debian that this runs on, in
# build/deb.
. "$(dirname "$0")/common.sh"

case ${1:-} in
  "") ;;
  -h | --help) sed -n '2,3s/^# \?//p' "$0"; exit 0 ;;
  *) die "unknown argument $1; see --help" ;;
esac
install_packages
cd "$ROOT"
build release
say "Packing"
rm -rf build/deb
cpack --config build/release/CPackConfig.cmake -B build/deb >/dev/null || die "cpack failed; try it without >/dev/null"
rm -rf build/deb/_CPack_Packages
dpkg-deb --info build/deb/*.deb | sed -n '/Package:/,$p'
say "Built $(cd build/deb && ls ./*.deb); install it with: apt install $(ls "$ROOT"/build/deb/*.deb)"
