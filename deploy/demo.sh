#!/usr/bin/env bash
# The main job from end to end on this machine: builds Nearline, fills it, serves,
# learns, retrains, swaps.
#   deploy/demo.sh                made-up data
#   deploy/demo.sh --data DIR     real data: MovieLens 1M or 100K, as unpacked
#   deploy/demo.sh --keep         leaves the server running at the end
. "$(dirname "$0")/common.sh"

data= keep=false
while [ $# -gt 0 ]; do
  case $1 in
    --data) [ $# -gt 1 ] || die "--data needs a folder"; data=$(realpath "$2") || die "no folder $2"; shift ;;
    --keep) keep=true ;;
    -h | --help) sed -n '2,6s/^# \?//p' "$0"; exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done
[ -z "$data" ] || [ -d "$data" ] || die "no folder $data"

install_packages
build release
BIN=$ROOT/build/release/bin
work=$(mktemp -d "${TMPDIR:-/tmp}/nearline-demo.XXXXXX")
server=
finish() {
  local code=$?
  if [ -n "$server" ] && { ! $keep || [ $code != 0 ]; }; then
    kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
    rm -rf "$work"
  fi
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) metrics=$(free_port)
export NEARLINE_SERVER=127.0.0.1:$port
nearline() { printf '\n%s$ nearline %s%s\n' "$DIM" "$*" "$PLAIN"; "$BIN/nearline" "$@"; }

if [ -z "$data" ]; then
  say "Making up a film service: 3,000 users, 2,000 films"
  data=$work/data
  "$BIN/nearline-train" generate "$data" --end "$(date +%s)"
fi

say "Starting the server"
NEARLINE_LISTEN=127.0.0.1:$port NEARLINE_METRICS_LISTEN=127.0.0.1:$metrics \
  NEARLINE_DATA_DIR=$work/server \
  "$BIN/nearline-server" --config "$ROOT/deploy/nearline.yaml" 2>"$work/server.log" &
server=$!
for _ in $(seq 100); do
  "$BIN/nearline" status --timeout 1 >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; die "the server did not start (above)"; }
  sleep 0.1
done
nearline status

say "Importing $data"
nearline import "$data"

user=$("$BIN/nearline" users --count 1 | tail -1)
say "Before any training, user $user gets what is popular"
nearline recommend "$user" --count 5

# The gate may keep a generation out: that is an answer too.
retrain() {
  local code=0
  nearline retrain || code=$?
  [ $code = 0 ] || [ $code = 4 ] || die "the training run failed (above)"
  [ $code = 0 ] || note "the gate kept it out, so what served before goes on serving"
}

say "Training: EASE serves within seconds, the joint model follows if it is better"
retrain

say "Now user $user gets personal answers"
nearline users --history "$user" --count 5
nearline recommend "$user" --count 8

items=$("$BIN/nearline" recommend "$user" --count 8 --json |
  python3 -c 'import json, sys; print(*[i["item"] for i in json.load(sys.stdin)["items"][4:7]])')
say "User $user likes three of them; the next answer knows"
# shellcheck disable=SC2086
nearline feedback "$user" $items --type like
nearline recommend "$user" --count 8

newcomer=newcomer-$$
liked=$(printf '%s' "$items" | cut -d' ' -f1)
say "A brand-new user: popular at first, personal after one event"
nearline recommend "$newcomer" --count 5
nearline feedback "$newcomer" "$liked" --type like
nearline recommend "$newcomer" --count 5

say "Retraining: warm start, same holdout for both generations, then a swap"
retrain
nearline models

say "Watching it"
note "curl http://127.0.0.1:$metrics/metrics"
python3 - "$metrics" <<'PY'
import sys, urllib.request
text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode()
wanted = ("nearline_rpc_requests_total", "nearline_generation_quality", "nearline_hot_profiles ",
          "nearline_store_sequence", "nearline_training_runs_total")
print(*[l for l in text.splitlines() if l.startswith(wanted)], sep="\n")
PY

if $keep; then
  say "The server keeps running (pid $server, data in $work)"
  echo "export NEARLINE_SERVER=127.0.0.1:$port PATH=$BIN:\$PATH"
  echo "nearline recommend $user      ask it"
  echo "nearline --help               more"
  echo "kill $server                  stop it"
else
  say "Done; the server is stopped and its data removed (--keep would leave both)"
fi
