-- Run by the driver: the load $1 has passed its validation, or has not ($2). Expects the ledger.

update mirror42.runs set valid = $2
 where id = $1
