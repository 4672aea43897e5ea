#!/bin/sh
# Are the tests worth their name? Each mutant is a loader with one thing broken; a test must fail for it.
#
#   scripts/mutants.sh [PART OF A NAME]
#
# Works on a copy of the sources in a temporary folder, with a build folder of its own (target/mutants, kept for the next
# time). Prints for each mutant the tests that killed it; fails if one survives. About 90 seconds a mutant on two cores.
set -eu

cd "$(dirname "$0")/.."
only=${1:-}
project=$PWD
copy=$(mktemp -d)
chmod 755 "$copy"
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' HUP INT TERM
cp -R Cargo.lock src tests docs examples scripts ./*.md ./*.toml schema.sql Makefile "$copy/"
export CARGO_TARGET_DIR="$project/target/mutants" RUST_BACKTRACE=0
cd "$copy"
survived=0

# mutant NAME FILE OLD NEW: breaks FILE, in which OLD (a line's part) becomes NEW, and runs the tests of loading.
mutant() {
    name=$1 file=$2 old=$3 new=$4
    case $name in *"$only"*) ;; *) return ;; esac
    cp "$file" "$copy/original"
    OLD=$old NEW=$new awk '{
        at = done ? 0 : index($0, ENVIRON["OLD"])
        if (at) { $0 = substr($0, 1, at - 1) ENVIRON["NEW"] substr($0, at + length(ENVIRON["OLD"])); done = 1 }
        print
    } END { exit !done }' "$copy/original" >"$file" || { echo "$name: \`$old\` is not in $file" >&2; exit 2; }
    if cargo test --quiet --locked --test it -- load validate >"$copy/output" 2>&1; then
        survived=$((survived + 1))
        echo "SURVIVED  $name"
    elif grep -q '^error' "$copy/output" && ! grep -q '^test result' "$copy/output"; then
        cat "$copy/output" >&2
        echo "$name does not compile" >&2
        exit 2
    else
        killers=$(sed -n 's/^---- \(.*\) stdout ----$/\1/p' "$copy/output")
        echo "killed    $name, by $(echo "$killers" | wc -l) tests, among them $(echo "$killers" | head -n 1)"
    fi
    cp "$copy/original" "$file"
}

mutant 'nothing is pruned' src/load/apply.rs 'if all[i].counts.deleted > 0 {' 'if false {'
mutant 'orphans are kept' src/diff/source.rs \
    'self.columns.number(fields).is_some_and(|number| !self.set.contains(number))' '{ let _ = fields; false }'
mutant 'the guard is inverted' src/load/write.rs '(deleted <= most && deleted < before)' '!(deleted <= most && deleted < before)'
mutant 'the guard lets a table be emptied' src/load/write.rs '(deleted <= most && deleted < before)' '(deleted <= most)'
mutant 'an allowance is a switch' src/load/write.rs 'allowed.is_some_and(|allowed| deleted <= allowed)' 'allowed.is_some()'
mutant 'changed rows are taken for the same' src/diff/mod.rs 'take(key, Difference::Changed { old, new })?;' ''
mutant 'rows after the last record are not seen' src/diff/mod.rs 'while let Some(old) = rows.row() {' 'while let Some(old) = rows.row().filter(|_| false) {'
mutant 'an edited export is loaded' src/diff/source.rs 'self.export.check_sha256(&sha256)?;' ''
mutant 'the order of an export is not looked at' src/diff/source.rs \
    'return Err(Stop::Doubt(format!("line {line} is not in the order of the key")));' 'let _ = line;'
mutant 'deletions are not noted' src/load/write.rs 'to_jsonb(gone), {} from gone"' 'to_jsonb(gone), {} from gone where false"'
mutant 'every row is written again' src/diff/mod.rs 'if old == new {' 'if old == new && old.is_empty() {'
mutant 'deletions come first' src/load/apply.rs 'match in_order(Order::PruneLast' 'match in_order(Order::PruneFirst'
mutant 'members of a jsonb stay in their order' src/codec/jsonb.rs \
    'members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));' ''
mutant 'a dry run commits' src/load/mod.rs 'tx.rollback().map_err' 'tx.commit().map_err'
mutant 'a failed check is passed over' src/load/steps.rs 'return Err(offenders.error(&check));' 'let _ = offenders;'
mutant 'each table is its own transaction' src/load/apply.rs 'write_one(order, tx, differ, work, run_id, phases)?;' 'write_one(order, tx, differ, work, run_id, phases)?; let _ = tx.batch_execute("commit; begin");'

[ "$survived" -eq 0 ] || { echo "$survived mutants survived" >&2; exit 1; }
