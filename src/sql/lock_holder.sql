-- Run by a loader that could not get the advisory lock $1: who has it. Expects nothing; returns a row at most.

select l.pid, coalesce(to_char(a.xact_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'a moment ago')
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database())
   and (l.classid::bigint << 32 | l.objid::bigint) = $1
 limit 1
