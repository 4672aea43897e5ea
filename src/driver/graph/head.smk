# The pipeline of PIPELINE for Snakemake (tried with 9.27). `mirror42 graph --format snakemake` has written it; write it again
# when PIPELINE changes. It belongs beside PIPELINE:
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

with open("PIPELINE", "rb") as file:
    if hashlib.sha256(file.read()).hexdigest() != "DIGEST":
        raise WorkflowError("PIPELINE has changed: write this file again by `mirror42 FLAGS graph --format snakemake`")


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
