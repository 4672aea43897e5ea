-- Run by the loader after it has written: the load $1 is done, if it is committed. Expects the ledger.

update mirror42.runs set finished_at = clock_timestamp(), status = 'loaded'
 where id = $1
