-- Run by the loader after the commit: what the load $1 deleted, table by table, in the order in which it was. Expects the ledger.

select d.table_name, d.key::text, d.cascaded_from
  from mirror42.deletions d
 where d.run_id = $1
 order by min(d.id) over (partition by d.table_name), d.id
