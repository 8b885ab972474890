# What demo.sh and test.sh share. Sourced, not run.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What one clone has compiled is found by the next.
export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=true CCACHE_SLOPPINESS=pch_defines,time_macros
if [ -t 1 ]; then BOLD=$'\e[1m'; DIM=$'\e[2m'; PLAIN=$'\e[0m'; else BOLD= DIM= PLAIN=; fi

say() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '%s%s%s\n' "$DIM" "$*" "$PLAIN"; }
die() { printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# install_packages [FILE ...]: installs what is missing of apt-packages.txt and
# of more lists. Needs root only then.
install_packages() {
  command -v apt-get >/dev/null ||
    die "this script installs Debian packages; elsewhere, install what deploy/apt-packages.txt lists, then run cmake as the README says"
  local missing=()
  while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done < <(cat "$ROOT/deploy/apt-packages.txt" "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  say "Installing ${#missing[@]} Debian packages"
  note "${missing[*]}"
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run it as root once, or install sudo, so that packages can be installed"
    sudo=(sudo)
  fi
  local log
  log=$(mktemp)
  { "${sudo[@]}" apt-get update &&
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
    { tail -20 "$log" >&2; die "apt-get failed (above); mend that and run this again"; }
  rm -f "$log"
}

# build PRESET [TARGET ...]: configures and compiles. Quiet when all goes well.
build() {
  local preset=$1 log
  shift
  log=$(mktemp)
  say "Building ($preset; the first time takes some minutes)"
  (cd "$ROOT" && cmake --preset "$preset") >"$log" 2>&1 ||
    { cat "$log" >&2; die "cmake could not configure (above)"; }
  (cd "$ROOT" && NINJA_STATUS='[%f/%t] ' cmake --build --preset "$preset" ${1+--target "$@"}) 2>&1 | tee "$log" | progress ||
    { grep -A20 -E 'FAILED|error:' "$log" | head -60 >&2; die "the build failed (above)"; }
  rm -f "$log"
}

# One line rewritten on a terminal; every fiftieth line elsewhere.
progress() {
  if [ -t 1 ]; then
    while IFS= read -r line; do printf '\r\e[K%.100s' "$line"; done
    printf '\r\e[K'
  else
    awk 'NR % 50 == 0 { print; fflush() }'
  fi
}
