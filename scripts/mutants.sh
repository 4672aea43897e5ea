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
cp -R .gitignore Cargo.lock build.rs src tests docs examples scripts ./*.md ./*.toml schema.sql Makefile "$copy/"
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
mutant 'members of a jsonb stay in their order' src/codec/jsonb.rs \
    'members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));' ''
mutant 'a dry run commits' src/load/mod.rs 'tx.rollback().map_err' 'tx.commit().map_err'
mutant 'a failed check is passed over' src/load/steps.rs 'return Err(offenders.error(&check));' 'let _ = offenders;'
mutant 'each table is its own transaction' src/load/apply.rs 'Order::PruneLast => self.write_one(tx, work, Updates::Last)?,' \
    'Order::PruneLast => { self.write_one(tx, work, Updates::Last)?; let _ = tx.batch_execute("commit; begin"); }'
mutant 'a conflict at the commit is final' src/load/mod.rs 'if error.kind() == Kind::Conflict =>' 'if error.kind() == Kind::Conflict && !error.message().contains("commit") =>'
mutant 'a conflict at the commit leaves the shield up' src/load/mod.rs 'Some(severity) if is_refusal(severity) => failed' 'Some(severity) if is_refusal(severity) => { shield.keep(); failed }'
mutant 'the isolation is that of the role' src/load/mod.rs 'client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start()' '{ let _ = IsolationLevel::ReadCommitted; client.build_transaction().start() }'
mutant 'deferred constraints wait for the commit' src/load/steps.rs 'tx.batch_execute("set constraints all immediate")' 'tx.batch_execute("select")'
mutant 'what is swept away is not put back' src/load/sweep.rs 'if any.map_err(|error| failed(&child.name)(&error))?.get(0) {' 'if any.map_err(|error| failed(&child.name)(&error))?.get::<_, bool>(0) && false {'
mutant 'what hangs on a row that is swept away is lost' src/load/sweep.rs 'parents.push(kept(key.parent));' ''
mutant 'rows are swept away by unknown keys' src/load/apply.rs 'sweep::check(tx, all)?;' ''
mutant 'other bytes of a key are the same' src/diff/plain.rs 'key.contains(name) && binary.is_some_and(Binary::is_ordered)' 'key.contains(name) && (binary.is_none() || binary.is_some())'
mutant 'keys of a table to itself are looked at one by one' src/diff/mod.rs 'if other.name != key.name {' 'if false && other.name != key.name {'
mutant 'only keys that are known here have orphans' src/diff/orphans.rs 'if job.parents.iter().all(is_known) {' 'if job.parents.iter().all(is_known) || true {'
mutant 'minutes with a fraction are hours' src/codec/time.rs "[b'.', ..] => return None," ''

[ "$survived" -eq 0 ] || { echo "$survived mutants survived" >&2; exit 1; }
