#!/bin/sh
# Whole runs against a simulator that misbehaves at random: each kind of fault on every twentieth request, and mixtures.
#
#   scripts/chaos-fetch.sh [SEEDS] [RUNS AT A TIME] [PART OF A FAULT]
#
# Prints a table, then what was wrong: a mirror that is neither exact nor left as it was. Fails if there is any such. The
# third argument plays only those faults whose name contains it. docs/faults.md has the results.
set -eu

cd "$(dirname "$0")/.."
CHAOS_SEEDS=${1:-20} CHAOS_JOBS=${2:-6} CHAOS_ONLY=${3:-} \
    exec cargo test --locked --test it -- --ignored --exact --nocapture chaos::campaign
