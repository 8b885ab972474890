#!/usr/bin/env bash
# A first day in operation, on this machine, in a temporary folder: certificates,
# a token, the doctor, a server with TLS, data, a model, a backup, an erasure, a
# restart under load, a restore. Ends with an error where anything is amiss.
#   deploy/rehearse.sh              builds first
#   deploy/rehearse.sh --bin DIR    with programs that are built already
. "$(dirname "$0")/common.sh"

BIN=
while [ $# -gt 0 ]; do
  case $1 in
    --bin) [ $# -gt 1 ] || die "--bin needs a folder"; BIN=$(realpath "$2"); shift ;;
    -h | --help) sed -n '2,6s/^# \?//p' "$0"; exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done
if [ -z "$BIN" ]; then
  install_packages
  build release
  BIN=$ROOT/build/release/bin
fi
command -v openssl >/dev/null || die "needs openssl: apt-get install openssl"

work=$(mktemp -d "${TMPDIR:-/tmp}/nearline-rehearsal.XXXXXX")
server=
finish() {
  local code=$?
  [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
  [ $code = 0 ] || { [ ! -e "$work/server.log" ] || tail -20 "$work/server.log" >&2; }
  rm -rf "$work"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) health=$(free_port) metrics=$(free_port)
export NEARLINE_SERVER=127.0.0.1:$port NEARLINE_CA=$work/etc/ca.crt

nearline() { "$BIN/nearline" "$@"; }
shop() { NEARLINE_TOKEN=$(cat "$work/shop.token") nearline "$@"; }
ops() { NEARLINE_TOKEN=$(cat "$work/ops.token") nearline "$@"; }
# expect CODE COMMAND ...: that it ends with this exit code.
expect() {
  local wanted=$1 code=0
  shift
  "$@" >"$work/out" 2>&1 || code=$?
  [ $code = "$wanted" ] || { cat "$work/out" >&2; die "$* ended with $code, not $wanted (above)"; }
  note "$(head -1 "$work/out")"
}
start() {
  "$BIN/nearline-server" --config "$work/etc/nearline.yaml" 2>>"$work/server.log" &
  server=$!
  for _ in $(seq 200); do
    NEARLINE_CA='' nearline --server "127.0.0.1:$health" health >/dev/null 2>&1 && return
    kill -0 "$server" 2>/dev/null || die "the server did not start (below)"
    sleep 0.05
  done
  die "the server did not serve in time (below)"
}
stop() { kill -TERM "$server" && wait "$server"; server=; }
answers() { for i in $(seq 1 20); do shop --json recommend "user-000$(printf %02d "$i")" --count 20; done; }

say "An authority, a certificate, tokens of two callers"
"$ROOT/deploy/certificates.sh" "$work/etc" localhost 127.0.0.1
nearline token 2>/dev/null >"$work/shop.token"
nearline token 2>/dev/null >"$work/ops.token"
hash() { tr -d '\n' <"$1" | sha256sum | cut -d' ' -f1; }
cat >"$work/etc/callers.yaml" <<YAML
callers:
  - {name: shop, tokens: [$(hash "$work/shop.token")], roles: [recommend, feedback]}
  - {name: ops, tokens: [$(hash "$work/ops.token")], roles: [recommend, feedback, manage]}
YAML
cat >"$work/etc/nearline.yaml" <<YAML
listen: 127.0.0.1:$port
health_listen: 127.0.0.1:$health
metrics_listen: 127.0.0.1:$metrics
data_dir: $work/data
tls: {certificate: $work/etc/tls.crt, key: $work/etc/tls.key}
access: {file: $work/etc/callers.yaml}
log: {audit: $work/audit.log}
backup: {dir: $work/backups}
training: {first: "", retriever: ease, min_holdout_users: 20}
YAML

say "The doctor, before the first start"
"$BIN/nearline-server" doctor --config "$work/etc/nearline.yaml"

say "The server, and who gets in"
start
expect 0 ops status
expect 1 shop status
expect 1 nearline recommend user-00001
NEARLINE_CA='' expect 3 ops status --timeout 2

say "Data and a model"
"$BIN/nearline-train" generate "$work/made-up" --users 300 --items 200 --end "$(date +%s)" >/dev/null
ops import --quiet "$work/made-up"
expect 0 ops retrain
answers >"$work/before"

say "A backup; then a user is erased, and more happens"
ops backup --verify
ops users --delete user-00007
shop feedback user-00001 film-00001 film-00002 --type like

say "A restart under load: every call is answered"
# Its own retries are what a client of the library does.
(
  for i in $(seq 1 150); do
    shop --timeout 30 --patient recommend "user-000$(printf %02d $((i % 6 + 1)))" >/dev/null || echo "call $i was lost"
  done >"$work/lost"
) &
load=$!
sleep 0.5
stop
start
wait $load
[ ! -s "$work/lost" ] || { cat "$work/lost" >&2; die "calls were lost (above)"; }
note "150 calls, none lost"

say "A restore into an empty folder"
stop
mv "$work/data" "$work/lost-data"
"$BIN/nearline-server" restore --config "$work/etc/nearline.yaml"
start
expect 1 ops users --get user-00007
answers >"$work/after"
python3 - "$work/before" "$work/after" <<'PY'
import json, sys
def items(path):
    decoder, text, out = json.JSONDecoder(), open(path).read(), []
    while text.strip():
        answer, end = decoder.raw_decode(text.lstrip())
        out.append(answer["items"])
        text = text.lstrip()[end:]
    return out
before, after = items(sys.argv[1]), items(sys.argv[2])
same = sum(a == b for a, b in zip(before, after))
# The one who was erased gets what everyone gets.
assert len(before) == len(after) == 20 and same >= 19, f"{same} of 20 answers are the same"
print("19 of 20 users get the same answers; the one who was erased is a stranger")
PY

say "What the managers did"
sed -n '1,5s/^/  /p' "$work/audit.log"
say "The rehearsal went well"
