# The pipeline of pipeline.toml for Snakemake (tried with 9.27). `mirror42 graph --format snakemake` has written it; write it again
# when pipeline.toml changes. It belongs beside pipeline.toml:
#
#     snakemake -s FILE --cores 4     everything up to date, loaded, validated
#     snakemake -s FILE -n            what would run, and why
#
# On a cluster (`--executor slurm --jobs 20`) only extracts and programs of your own go to its machines, which must see this folder. The fetches
# stay on the machine where snakemake runs, since the rate limit is kept by a clock that the processes of one machine share;
# without the line `localrules`, give `--resources api=1`, so that no two of them run at a time.
# A fetch that fails leaves the pages of the last good one, and so for all outputs (`update`).

import hashlib
import os
import time

with open("pipeline.toml", "rb") as file:
    if hashlib.sha256(file.read()).hexdigest() != "HASH":
        raise WorkflowError("pipeline.toml has changed: write this file again by `mirror42 graph --format snakemake`")


def due(stage, max_age_s):
    """A file that becomes newer than the pages of the stage when they are older than max_age_s."""
    file = f".mirror42/snakemake/due/{stage}"
    pages = f"exports/{stage}/pages"
    old = os.path.exists(pages) and os.stat(pages).st_mtime < time.time() - max_age_s
    if old or not os.path.exists(file):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "w") as stamp:
            stamp.write(str(time.time() if old else 0))
        if not old:
            os.utime(file, (86400, 86400))
    return file

localrules: all, fetch_01_campus, fetch_02_events, load, validate

rule all:
    input:
        "exports/01_campus/all.json",
        "exports/02_events/all.json",
        "exports/03_places/all.json",
        "exports/04_guests/all.json",
        ".mirror42/snakemake/validated",

rule fetch_01_campus:
    input:
        due("01_campus", 72000),
    output:
        update(directory("exports/01_campus/pages")),
    params:
        definition="format:1 address:HASH auth:HASH fetch:HASH each:HASH page:HASH headers:HASH query:HASH",
    resources:
        api=1,
    shell: "mirror42-fetch 01_campus"

rule fetch_02_events:
    input:
        "exports/01_campus/all.json",
        due("02_events", 1800),
    output:
        update(directory("exports/02_events/pages")),
    params:
        definition="format:1 address:HASH auth:HASH fetch:HASH each:HASH page:HASH headers:HASH query:HASH",
    resources:
        api=1,
    shell: "mirror42-fetch 02_events"

rule extract_01_campus:
    input:
        "exports/01_campus/pages",
    output:
        update("exports/01_campus/all.json"),
    params:
        definition="format:1 filter:HASH with:HASH key:HASH duplicates:HASH slurp:HASH records:HASH",
    threads: 2
    shell: "RAYON_NUM_THREADS={threads} mirror42-extract 01_campus"

rule extract_02_events:
    input:
        "exports/02_events/pages",
        "exports/01_campus/all.json",
    output:
        update("exports/02_events/all.json"),
        update("exports/03_places/all.json"),
    params:
        definition="format:1 filter:HASH with:HASH key:HASH duplicates:HASH slurp:HASH records:HASH format:1 filter:HASH with:HASH key:HASH duplicates:HASH slurp:HASH records:HASH",
    threads: 2
    shell: "RAYON_NUM_THREADS={threads} mirror42-extract 02_events 03_places"

rule extract_04_guests:
    input:
        "exports/02_events/pages",
        "exports/01_campus/all.json",
        "exports/03_places/all.json",
    output:
        update("exports/04_guests/all.json"),
    params:
        definition="format:1 filter:HASH with:HASH key:HASH duplicates:HASH slurp:HASH records:HASH",
    threads: 2
    shell: "RAYON_NUM_THREADS={threads} mirror42-extract 04_guests"

rule load:
    input:
        "exports/01_campus/all.json",
        "exports/02_events/all.json",
        "exports/04_guests/all.json",
        "schema.sql",
    output:
        touch(".mirror42/snakemake/loaded"),
    shell: "mirror42-load"

rule validate:
    input:
        ".mirror42/snakemake/loaded",
    output:
        touch(".mirror42/snakemake/validated"),
    shell: "mirror42-validate"
