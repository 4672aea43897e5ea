#!/bin/sh
# How long the quick demo and the extraction of all stages take: median, least and most of several runs.
#
#   scripts/bench.sh [FOLDER OF THE BINARIES] [RUNS]
#
# Wall time, process starts included, on the synthetic data of scale 1 (26 MB of answers), in a temporary folder.
# Each step is run once before it is measured. So what is measured is a run of which every page is fetched, filtered and
# compared again, and no row changes: the first run makes the database and fills it, and is not counted.
set -eu

cd "$(dirname "$0")/.."
binaries=$(cd "${1:-target/release}" && pwd)
runs=${2:-7}
# The embedded server may run as another user, who must be able to enter.
folder=$(mktemp -d)
chmod 755 "$folder"
cp pipeline.toml schema.sql "$folder/"
cd "$folder"
clean_up() {
    "$binaries/mirror42" -q demo --remove || true
    cd / && rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# measure NAME COMMAND…
measure() {
    name=$1
    shift
    "$@" >/dev/null
    i=0
    while [ "$i" -lt "$runs" ]; do
        began=$(now_ms)
        "$@" >/dev/null
        echo $(($(now_ms) - began))
        i=$((i + 1))
    done | sort -n | awk -v name="$name" '
        { ms[NR] = $1 }
        END { printf "%-24s median %5.2f s   least %5.2f s   most %5.2f s   (%d runs)\n",
              name, ms[int((NR + 1) / 2)] / 1000, ms[1] / 1000, ms[NR] / 1000, NR }'
}

unset DATABASE_URL MIRROR42_API_URL MIRROR42_LIMITS
measure "whole run, unchanged" "$binaries/mirror42" -q demo --quick
measure "extraction alone" "$binaries/mirror42-extract" -q
