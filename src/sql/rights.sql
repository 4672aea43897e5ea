-- Run by the doctor: what this role lacks for a load. Expects the ledger's schema ($1) and the quoted names of the
-- tables ($2). Returns, each true if it is well: temporary tables; the ledger, which is there and may be added
-- to, or may be made; the tables, which may be made if none is there; and the names of those of somebody else.

with tables as (
    select wanted.name, c.relowner
      from unnest($2::text[]) wanted (name)
      join pg_class c on c.oid = to_regclass(wanted.name))
select has_database_privilege(current_database(), 'temporary'),
       case when to_regnamespace(quote_ident($1::text)) is null then has_database_privilege(current_database(), 'create')
            else has_schema_privilege(to_regnamespace(quote_ident($1::text))::oid, 'create')
                 and has_schema_privilege(to_regnamespace(quote_ident($1::text))::oid, 'usage') end,
       to_regnamespace(quote_ident($1::text)) is not null,
       exists (select from tables) or coalesce(has_schema_privilege(current_schema(), 'create'), false),
       coalesce(current_schema()::text, ''),
       coalesce((select array_agg(name order by name) from tables where not pg_has_role(relowner, 'usage')), '{}')
