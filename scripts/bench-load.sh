#!/bin/sh
# How long a load takes, beside what psql takes for the same with files made beforehand: the floors.
#
#   scripts/bench-load.sh [FOLDER OF THE BINARIES] [ROWS] [RUNS]
#
# Data: the mirror (35,654 rows of the simulator, days 0 and 1), and ROWS synthetic rows in one table (1,000,000, of
# `mirror42-simulate exports`, nights 0 and 1: 1 % changed, 0.5 % gone, 0.5 % new). Cases: a first load into empty
# tables, the next night, a night on which nothing changed. Each is done in three ways:
#
#   F0    what no load can do without. The tables are read out by binary COPY to /dev/null, as if somebody else
#         compared; only the differences, found beforehand, are sent by binary COPY, deleted and merged. A first load
#         is a plain binary COPY into the tables.
#   F1    the usual way: all rows by binary COPY into unlogged delta tables, rows that are not there are deleted, all
#         others go by `insert … on conflict do update … where … is distinct from …`.
#   load  mirror42-load, from the exports: it reads JSON, compares, keeps a ledger with every deleted row, and checks.
#
# Each floor is one psql and one transaction for all tables. Measured is the wall time of whole processes, in a private
# Postgres cluster with the settings of mirror42's own, but no autovacuum. Before each, the database is made anew from
# a template (vacuumed and analyzed), and a checkpoint is done. F0, F1 and load take turns in each of RUNS rounds (5).
# In the first round it is checked that they leave the rows of that night. Times are seconds: median (least-most); the
# ratios are of medians; the memory is the peak of mirror42-load, the server's not among it (- without GNU time).
set -eu

case ${2:-1}${3:-1} in
*[!0-9]*) sed -n 's/^# *\(scripts.*\)/usage: \1/p' "$0" >&2 && exit 2 ;;
esac
cd "$(dirname "$0")/.."
statements=$PWD/scripts/bench-load.sql
binaries=$(cd "${1:-target/release}" && pwd)
rows=${2:-1000000}
runs=${3:-5}

# The embedded server may run as another user, who must be able to enter.
folder=$(mktemp -d)
chmod 755 "$folder"
mkdir "$folder/mirror" "$folder/mirror-0" "$folder/mirror-1"
for project in mirror mirror-0 mirror-1; do
    cp pipeline.toml schema.sql "$folder/$project/"
done
cd "$folder"
clean_up() {
    trap '' HUP INT TERM
    mirror42 demo --remove >/dev/null || true
    cd / && rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

now_ms() { echo $(($(date +%s%N) / 1000000)); }
mirror42() { "$binaries/mirror42" -q --pipeline "$folder/mirror/pipeline.toml" "$@"; }

# --- The server and its databases ----------------------------------------------------------------------------

# sql DATABASE: runs what comes on the standard input, prints values without ornaments.
sql() { PGDATABASE=$1 PGOPTIONS='-c client_min_messages=warning' "$psql" -XqAt -v ON_ERROR_STOP=1; }

# The demo makes the cluster, and the exports of day 0.
start_server() {
    mirror42 demo --quick >/dev/null
    url=$(mirror42 db url)
    # The server's own: what is called `psql` may be a wrapper that takes 0.1 s to find one (Debian's).
    psql=$(mirror42 db psql -- -XAtc "select setting || '/psql' from pg_config where name = 'BINDIR'")
    [ -x "$psql" ] || psql=psql
    PGHOST=$(mirror42 db psql -- -XAtc "select split_part(current_setting('unix_socket_directories'), ', ', 1)")
    PGUSER=mirror42
    export PGHOST PGUSER
    echo 'alter system set autovacuum = off; select pg_reload_conf()' | sql postgres >/dev/null
    # Otherwise a template goes through the write-ahead log whole. Postgres 14 knows no other way than this.
    strategy=$(echo "select case when current_setting('server_version_num')::int >= 150000
                                 then 'strategy file_copy' else '' end" | sql postgres)
}

# new_database NAME TEMPLATE
new_database() {
    echo "drop database if exists $1; create database $1 template $2 $strategy" | sql postgres
}

# load DATABASE PROJECT
load() {
    DATABASE_URL=$(echo "$url" | sed "s|///mirror42|///$1|") \
        $peak_to "$binaries/mirror42-load" -q --pipeline "$2/pipeline.toml"
}

# --- The data: project folders and databases of two nights ------------------------------------------------------

make_exports() {
    cp -r mirror/exports mirror-0/
    mirror42 demo --quick --day 1 >/dev/null
    cp -r mirror/exports mirror-1/
    for night in 0 1; do
        "$binaries/mirror42-simulate" exports "big-$night" --rows "$rows" --night "$night"
    done
}

# prepare NAME: the templates NAME_empty, NAME_0 and NAME_1; the floors' files and scripts, in the folder NAME.
prepare() {
    name=$1
    new_database "${name}_empty" template0
    sql "${name}_empty" <"$name-0/schema.sql"
    new_database "${name}_0" "${name}_empty"
    load "${name}_0" "$name-0"
    new_database "${name}_1" "${name}_0"
    load "${name}_1" "$name-1"
    mkdir -p "$name/0" "$name/1" "$name/differing" "$name/gone"
    sql "${name}_1" <"$statements"
    make_files
    make_scripts
    for database in "${name}_empty" "${name}_0" "${name}_1"; do
        echo 'vacuum analyze' | sql "$database"
    done
}

# Runs in database $1 what the query on the standard input makes of the tables.
run_made() {
    sql "${name}_1" >made.sql
    sql "$1" <made.sql
}

# The rows of both nights, and what differs, for binary COPY.
make_files() {
    for night in 0 1; do
        run_made "${name}_$night" <<SQL
            select format('\copy %s (%s) to ''$name/$night/%1\$s'' (format binary)', name, columns) from bench_tables
SQL
    done
    run_made "${name}_1" <<SQL
        select 'create schema before;';
        select format('create table before.%s as select %s from %1\$s with no data;', name, columns) from bench_tables;
        select format('\copy before.%s (%s) from ''$name/0/%1\$s'' (format binary)', name, columns) from bench_tables;
        select 'analyze;';
        select format('\copy (%s) to ''$name/differing/%s'' (format binary)', differing, name) from bench_tables;
        select format('\copy (%s) to ''$name/gone/%s'' (format binary)', gone, name) from bench_tables;
        select format('update bench_tables set differing_count = (select count(*) from (%s) x), '
                      'gone_count = (select count(*) from (%s) x) where name = %L;', differing, gone, name)
        from bench_tables;
        select 'drop schema before cascade;';
SQL
    echo "select '$name: ' || sum(differing_count) || ' rows are new or changed on night 1, ' || sum(gone_count) || ' gone'
          from bench_tables" | sql "${name}_1"
}

# NAME/F1-NIGHT.sql for both nights; NAME/F0-first.sql, -changed.sql and -same.sql.
make_scripts() {
    for night in 0 1; do
        sql "${name}_1" >"$name/F1-$night.sql" <<SQL
            select 'begin;';
            select format('create unlogged table delta_%s as select %s from %s with no data;', place, columns, name)
            from bench_tables order by place;
            select format('\copy delta_%s from ''$name/$night/%s'' (format binary)', place, name)
            from bench_tables order by place;
            select format('delete from %s t where not exists (select from delta_%s d where %s);', name, place, same_key)
            from bench_tables order by place desc;
            select format('insert into %s as t (%s) select %2\$s from delta_%s %s%s;', name, columns, place, upsert, if_distinct)
            from bench_tables order by place;
            select format('drop table delta_%s;', place) from bench_tables;
            select 'commit;'
SQL
    done
    sql "${name}_1" >"$name/F0-first.sql" <<SQL
        select 'begin;';
        select format('\copy %s (%s) from ''$name/0/%1\$s'' (format binary)', name, columns)
        from bench_tables order by place;
        select 'commit;'
SQL
    sql "${name}_1" >"$name/F0-same.sql" <<SQL
        select 'begin;';
        select format('\copy %s (%s) to /dev/null (format binary)', name, columns) from bench_tables order by place;
        select 'commit;'
SQL
    sql "${name}_1" >"$name/F0-changed.sql" <<SQL
        select 'begin;';
        select format('\copy %s (%s) to /dev/null (format binary)', name, columns) from bench_tables order by place;
        select format('create temp table differing_%s on commit drop as select %s from %s with no data;', place, columns, name)
        from bench_tables where differing_count > 0 order by place;
        select format('\copy differing_%s from ''$name/differing/%s'' (format binary)', place, name)
        from bench_tables where differing_count > 0 order by place;
        select format('create temp table gone_%s on commit drop as select %s from %s with no data;', place, key, name)
        from bench_tables where gone_count > 0 order by place;
        select format('\copy gone_%s from ''$name/gone/%s'' (format binary)', place, name)
        from bench_tables where gone_count > 0 order by place;
        select format('delete from %s t using gone_%s d where %s;', name, place, same_key)
        from bench_tables where gone_count > 0 order by place desc;
        select format('insert into %s as t (%s) select %2\$s from differing_%s %s;', name, columns, place, upsert)
        from bench_tables where differing_count > 0 order by place;
        select 'commit;'
SQL
}

# --- Measuring -----------------------------------------------------------------------------------------------

# checksums DATABASE
checksums() {
    run_made "$1" <<SQL
        select format('select ''%s'', count(*), sum(hashtextextended(row(%s)::text, 0)) from %1\$s;', name, columns)
        from bench_tables order by place
SQL
}

floor() { PGDATABASE=run "$psql" -Xq -v ON_ERROR_STOP=1 -f "$1" >/dev/null; }

# compare TITLE NAME CASE TEMPLATE NIGHT
compare() {
    title=$1 name=$2 case=$3 template=$4 night=$5
    rm -f ms.* peak_kb
    checksums "${name}_$night" >expected
    round=1
    while [ "$round" -le "$runs" ]; do
        for way in F0 F1 load; do
            new_database run "$template"
            echo checkpoint | sql postgres
            began=$(now_ms)
            case $way in
            F0) floor "$name/F0-$case.sql" ;;
            F1) floor "$name/F1-$night.sql" ;;
            load) load run "$name-$night" ;;
            esac
            echo $(($(now_ms) - began)) >>"ms.$way"
            [ "$round" -gt 1 ] || checksums run | cmp -s expected - || {
                echo "bench-load: error: after $way of \`$title\` the tables are not those of the night" >&2
                exit 1
            }
        done
        round=$((round + 1))
    done
    report
}

# One line of the table.
report() {
    for way in F0 F1 load; do
        sort -n "ms.$way" | awk -v way="$way" '
            { ms[NR] = $1 }
            END { print way, (ms[int((NR + 1) / 2)] + ms[int(NR / 2) + 1]) / 2000, ms[1] / 1000, ms[NR] / 1000 }'
    done | awk -v title="$title" -v peak_kb="$(sort -n peak_kb 2>/dev/null | tail -n 1)" '
        { median[$1] = $2; range[$1] = sprintf("%.2f (%.2f-%.2f)", $2, $3, $4) }
        END { printf "%-30s %-19s %-19s %-19s %6.2f %6.2f %7s\n", title, range["F0"], range["F1"], range["load"],
              median["load"] / median["F0"], median["load"] / median["F1"], peak_kb ? sprintf("%d MB", peak_kb / 1024) : "-" }'
}

peak_to=
start_server
make_exports
prepare mirror
prepare big
rm -f peak_kb
if /usr/bin/time -f %M -o peak_kb true 2>/dev/null; then
    peak_to="/usr/bin/time -f %M -a -o $folder/peak_kb"
fi
echo
printf '%-30s %-19s %-19s %-19s %6s %6s %7s\n' "$runs runs each" F0 F1 load /F0 /F1 memory
compare 'mirror, first load' mirror first mirror_empty 0
compare 'mirror, next night' mirror changed mirror_0 1
compare 'mirror, nothing changed' mirror same mirror_0 0
compare "$rows rows, first load" big first big_empty 0
compare "$rows rows, next night" big changed big_0 1
compare "$rows rows, nothing changed" big same big_0 0
