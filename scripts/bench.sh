#!/bin/sh
# How long the quick demo, the extraction of all stages, and runs without work take: median, least and most of several runs.
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
    # The simulator ends with this.
    exec 3>&-
    for pipeline in pipeline.toml many/pipeline.toml; do
        "$binaries/mirror42" -q --pipeline "$pipeline" db stop >/dev/null 2>&1 || true
    done
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
        END { printf "%-24s median %6.3f s   least %6.3f s   most %6.3f s   (%d runs)\n",
              name, ms[int((NR + 1) / 2)] / 1000, ms[1] / 1000, ms[NR] / 1000, NR }'
}

unset DATABASE_URL MIRROR42_API_URL MIRROR42_LIMITS
measure "whole run, unchanged" "$binaries/mirror42" -q demo --quick
measure "extraction alone" "$binaries/mirror42-extract" -q

# A run without work: by the simulator of a second demo that never ends, so that the address stays. A file that changed less than three
# seconds ago is read again each time.
mkfifo hold
"$binaries/mirror42-simulate" serve --limits none --until-stdin-closes <hold >url &
exec 3>hold
while ! grep -q listening url; do sleep 0.1; done
MIRROR42_API_URL=$(sed 's/listening on //' url)
export MIRROR42_API_URL MIRROR42_LIMITS=none FT_CLIENT_ID=sim-uid FT_CLIENT_SECRET=sim-secret
"$binaries/mirror42" -q run
sleep 3
measure "no work, 8 stages" "$binaries/mirror42" -q run

# 2,000 stages with a table each, three of four filtered from the pages of the first, each with two variables.
mkdir many
awk 'BEGIN {
    print "[pipeline]\nname = \"many\"\n[api]\nbase_url = \"http://127.0.0.1\"\npage = { style = \"none\", records = \".\" }"
    print "auth = { kind = \"oauth2\", token_path = \"/oauth/token\", client_id_env = \"FT_CLIENT_ID\", client_secret_env = \"FT_CLIENT_SECRET\" }"
    for (i = 0; i < 2000; i++) {
        printf "[[stage]]\nname = \"s%d\"\n", i
        if (i % 4 == 0) print "fetch = \"/v2/cursus/21\""
        else printf "from = \"s%d\"\n", i - i % 4
        if (i > 8) printf "with = { a = \"s%d\", b = \"s%d\" }\n", i - 5, i - 7
        printf "jq = \"{id, n: %d}\"\nkey = [\"id\"]\ntable = \"t%d\"\n", i, i
        printf "create table t%d (id int primary key, n int);\n", i > "many/schema.sql"
    }
}' >many/pipeline.toml
"$binaries/mirror42-fetch" -q --pipeline many/pipeline.toml
"$binaries/mirror42-extract" -q --pipeline many/pipeline.toml
"$binaries/mirror42" -q --pipeline many/pipeline.toml run
sleep 3
measure "no work, 2,000 stages" "$binaries/mirror42" -q --pipeline many/pipeline.toml run
