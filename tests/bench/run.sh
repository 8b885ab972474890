#!/usr/bin/env bash
# Measures what serving costs, every figure beside its yardstick in the same
# run, and writes build/bench/report.json and report.md.
#   tests/bench/run.sh                    quick: less than five minutes
#   tests/bench/run.sh full               also large catalogues, stores and loads, and
#                                         curves of cost by size, as pictures
#   tests/bench/run.sh --compare OLD.json and says what became better or worse
#   tests/bench/run.sh --only scan,serve  some parts alone; --list names them
. "$(dirname "$0")/../../deploy/common.sh"

case " $* " in
  *' -h '* | *' --help '*) sed -n '2,8s/^# \?//p' "$0"; exit 0 ;;
esac
install_packages
build release nearline nearline-server nearline-train nearline_benchmarks
exec python3 "$ROOT/tests/bench/suite.py" "$ROOT" "$@"
