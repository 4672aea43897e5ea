-- 30 authors and 250 books, so that there are three pages of them.
create table authors (id integer primary key, name text not null);
create table books (
    id integer primary key,
    author_id integer not null references authors (id),
    title text not null,
    year integer,
    price real
);
insert into authors
with recursive n (i) as (select 1 union all select i + 1 from n where i < 30)
select i, 'Author ' || i from n;
insert into books
with recursive n (i) as (select 1 union all select i + 1 from n where i < 250)
select i, 1 + i % 30, 'Book ' || i, 1900 + i % 120, i / 4.0 from n;
