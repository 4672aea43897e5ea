//! What the database says of the tables: columns, keys, foreign keys. `schema.sql` made them, and it is
//! read back from here rather than parsed, so that any table will do, whoever made it.

use postgres::GenericClient;

use super::{failure, quoted};
use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    /// As the pipeline file names it.
    pub name: String,
    /// As SQL takes it: schema and name, quoted.
    pub quoted: String,
    pub columns: Vec<Column>,
    pub primary_key: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As people write it: `bigint`, `character varying(20)`.
    pub type_name: String,
    pub kind: Kind,
    /// None: only the server knows its binary form.
    pub binary: Option<Binary>,
    pub not_null: bool,
    pub has_default: bool,
    /// The server computes it, and takes no value from us.
    pub generated: bool,
}

/// What decides how a JSON value goes into a column, or that it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Text,
    Boolean,
    Array(Element),
    /// Everything else: the server judges.
    Other,
}

/// The same of an element of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Json,
    Text,
    Boolean,
    Other,
}

/// A type whose binary form we know, as `COPY … (format binary)` has it. A domain is as the type under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// With the digits after the point that the column keeps, where it says so.
    Numeric {
        scale: Option<u16>,
    },
    Text,
    Enum,
    Json,
    Jsonb,
    Timestamptz,
    Timestamp,
    Date,
    Time,
    Uuid,
    Bytea,
}

impl Binary {
    /// Whether the server can be asked for rows in the order of this type's bytes.
    pub fn is_ordered(self) -> bool {
        use Binary::*;
        matches!(self, Bool | Int2 | Int4 | Int8 | Text | Timestamptz | Timestamp | Date | Time | Uuid | Bytea)
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Binary::Int2 | Binary::Int4 | Binary::Int8)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub child: u32,
    pub child_quoted: String,
    pub child_columns: Vec<String>,
    pub parent: u32,
    pub parent_quoted: String,
    pub parent_columns: Vec<String>,
    pub cascades: bool,
    /// The server vouches for every row (the constraint is not `not valid`).
    pub validated: bool,
    /// What `alter table … add constraint` takes.
    pub definition: String,
    /// The columns of both sides have the same types, but for the width of integers.
    pub same_types: bool,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl ForeignKey {
    pub fn refers_to_itself(&self) -> bool {
        self.child == self.parent
    }

    /// `from … where`: the rows of `child` (an alias `c` over `child_table`) that have no row in `parent_table`.
    /// As Postgres does, a key with a null refers to nothing and is no orphan.
    pub fn orphans_sql(&self, child_table: &str, parent_table: &str) -> String {
        let given: Vec<String> =
            self.child_columns.iter().map(|name| format!("c.{} is not null", quoted(name))).collect();
        format!(
            "from {child_table} c where {} and not exists (select from {parent_table} p where {})",
            given.join(" and "),
            super::join_condition("p", &self.parent_columns, "c", &self.child_columns)
        )
    }
}

/// What tells each of these tables from one that was made anew, emptied or given a column since; empty for one that is
/// not there.
pub fn states(client: &mut impl GenericClient, names: &[&str]) -> Result<Vec<String>> {
    let wanted: Vec<String> = names.iter().map(|name| quoted_path(name)).collect();
    let rows = client.query(include_str!("../sql/table_states.sql"), &[&wanted]);
    let rows = rows.map_err(|error| failure("could not read the tables from the catalog", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The tables of these names; none for one that the database does not have.
pub fn tables(client: &mut impl GenericClient, names: &[&str]) -> Result<Vec<Option<Table>>> {
    let failed = |error: postgres::Error| failure("could not read the tables from the catalog", &error);
    let wanted: Vec<String> = names.iter().map(|name| quoted_path(name)).collect();
    let rows = client.query(include_str!("../sql/tables.sql"), &[&wanted]).map_err(failed)?;
    let mut tables = Vec::with_capacity(names.len());
    for (name, row) in names.iter().zip(rows) {
        let oid: u32 = row.get(1);
        if oid == 0 {
            tables.push(None);
            continue;
        }
        if !row.get::<_, bool>(3) {
            return Err(Error::failed(format!("`{name}` is not a table: only tables can be loaded")));
        }
        tables.push(Some(Table {
            oid,
            name: name.to_string(),
            quoted: row.get(2),
            columns: Vec::new(),
            primary_key: row.get(4),
        }));
    }
    let oids: Vec<u32> = tables.iter().flatten().map(|table| table.oid).collect();
    for row in client.query(include_str!("../sql/columns.sql"), &[&oids]).map_err(failed)? {
        let oid: u32 = row.get(0);
        let column = Column {
            name: row.get(1),
            type_name: row.get(2),
            kind: kind_of(row.get(3), row.get(4), element_of(row.get(11), row.get(12))),
            // Where other bytes are the same text, only the server can compare.
            binary: binary_of(row.get(3), row.get(5), row.get(6)).filter(|_| !row.get::<_, bool>(10)),
            not_null: row.get(7),
            has_default: row.get(8),
            generated: row.get(9),
        };
        if let Some(table) = tables.iter_mut().flatten().find(|table| table.oid == oid) {
            table.columns.push(column);
        }
    }
    Ok(tables)
}

fn element_of(type_name: &str, category: &str) -> Element {
    match (type_name, category) {
        ("json" | "jsonb", _) => Element::Json,
        (_, "S") => Element::Text,
        (_, "B") => Element::Boolean,
        _ => Element::Other,
    }
}

fn kind_of(type_name: &str, category: &str, element: Element) -> Kind {
    match (type_name, category) {
        ("json" | "jsonb", _) => Kind::Json,
        (_, "S") => Kind::Text,
        (_, "B") => Kind::Boolean,
        (_, "A") => Kind::Array(element),
        _ => Kind::Other,
    }
}

/// By the name of a built-in type, what kind of type it is (`pg_type.typtype`) and its modifier.
fn binary_of(type_name: &str, type_kind: &str, modifier: i32) -> Option<Binary> {
    Some(match (type_kind, type_name) {
        ("e", _) => Binary::Enum,
        ("b", "bool") => Binary::Bool,
        ("b", "int2") => Binary::Int2,
        ("b", "int4") => Binary::Int4,
        ("b", "int8") => Binary::Int8,
        ("b", "float4") => Binary::Float4,
        ("b", "float8") => Binary::Float8,
        ("b", "numeric") if modifier < 0 => Binary::Numeric { scale: None },
        // The modifier is the precision, shifted by 16, and the scale, of 11 bits and signed; and 4.
        ("b", "numeric") => match (modifier - 4) & 0x7ff {
            scale @ 0..=0x3ff => Binary::Numeric { scale: Some(scale as u16) },
            _ => return None,
        },
        ("b", "text" | "varchar") => Binary::Text,
        ("b", "json") => Binary::Json,
        ("b", "jsonb") => Binary::Jsonb,
        // With a modifier, which is the digits kept after the second, the server rounds.
        ("b", "timestamptz") if modifier < 0 => Binary::Timestamptz,
        ("b", "timestamp") if modifier < 0 => Binary::Timestamp,
        ("b", "time") if modifier < 0 => Binary::Time,
        ("b", "date") => Binary::Date,
        ("b", "uuid") => Binary::Uuid,
        ("b", "bytea") => Binary::Bytea,
        _ => return None,
    })
}

/// The foreign keys from or to any of these tables.
pub fn foreign_keys(client: &mut impl GenericClient, tables: &[Table]) -> Result<Vec<ForeignKey>> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = client
        .query(include_str!("../sql/foreign_keys.sql"), &[&oids])
        .map_err(|error| failure("could not read the foreign keys from the catalog", &error))?;
    let keys = rows.iter().map(|row| ForeignKey {
        name: row.get(0),
        child: row.get(1),
        child_quoted: row.get(2),
        child_columns: row.get(3),
        parent: row.get(4),
        parent_quoted: row.get(5),
        parent_columns: row.get(6),
        cascades: row.get(7),
        validated: row.get(8),
        definition: row.get(9),
        same_types: row.get(10),
    });
    Ok(keys.collect())
}

/// The tables (by place) in an order in which parents come before their children.
pub fn parents_first(tables: &[Table], keys: &[ForeignKey]) -> Result<Vec<usize>> {
    let mut order = Vec::with_capacity(tables.len());
    let mut path = Vec::new();
    for place in 0..tables.len() {
        visit(place, tables, keys, &mut order, &mut path)?;
    }
    Ok(order)
}

fn visit(
    place: usize,
    tables: &[Table],
    keys: &[ForeignKey],
    order: &mut Vec<usize>,
    path: &mut Vec<usize>,
) -> Result<()> {
    if order.contains(&place) {
        return Ok(());
    }
    if let Some(start) = path.iter().position(|&seen| seen == place) {
        let names: Vec<&str> = path[start..].iter().chain([&place]).map(|&i| tables[i].name.as_str()).collect();
        return Err(Error::failed(format!(
            "cannot load tables whose foreign keys go round in a circle: `{}`",
            names.join("` → `")
        )));
    }
    path.push(place);
    for key in keys.iter().filter(|key| key.child == tables[place].oid && !key.refers_to_itself()) {
        let position = |oid: u32| tables.iter().position(|table| table.oid == oid);
        if let Some(parent) = position(key.parent) {
            visit(parent, tables, keys, order, path)?;
            continue;
        }
        // By way of a table that is none of these, as long as that is no circle: nothing of the order depends on it but what goes
        // with what.
        for parent in keys.iter().filter(|next| next.child == key.parent).filter_map(|next| position(next.parent)) {
            let (mut with_it, mut along) = (order.clone(), path.clone());
            if visit(parent, tables, keys, &mut with_it, &mut along).is_ok() {
                *order = with_it;
            }
        }
    }
    path.pop();
    order.push(place);
    Ok(())
}

/// A table's name from the pipeline file, `name` or `schema.name`, as SQL takes it.
pub(super) fn quoted_path(name: &str) -> String {
    match name.split_once('.') {
        Some((schema, table)) => format!("{}.{}", quoted(schema), quoted(table)),
        None => quoted(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, name: &str) -> Table {
        Table { oid, name: name.into(), quoted: quoted(name), columns: Vec::new(), primary_key: Vec::new() }
    }

    fn key(child: u32, parent: u32) -> ForeignKey {
        ForeignKey {
            name: String::new(),
            child,
            child_quoted: String::new(),
            child_columns: vec!["a".into(), "b".into()],
            parent,
            parent_quoted: String::new(),
            parent_columns: vec!["x".into(), "y".into()],
            cascades: true,
            validated: true,
            definition: String::new(),
            same_types: true,
        }
    }

    #[test]
    fn parents_come_before_their_children() {
        let tables = [table(1, "links"), table(2, "projects"), table(3, "campuses")];
        let order = parents_first(&tables, &[key(1, 2), key(1, 3), key(2, 2), key(2, 9)]).unwrap();
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn parents_by_way_of_another_table_come_first_where_they_can() {
        let tables = [table(1, "c"), table(2, "a")];
        assert_eq!(parents_first(&tables, &[key(1, 9), key(9, 2)]).unwrap(), [1, 0]);
        assert_eq!(parents_first(&tables, &[key(1, 9), key(9, 2), key(2, 1)]).unwrap(), [0, 1]);
        assert_eq!(parents_first(&tables, &[key(1, 9), key(9, 1)]).unwrap(), [0, 1]);
    }

    #[test]
    fn a_circle_of_foreign_keys_is_named() {
        let tables = [table(1, "a"), table(2, "b")];
        let error = parents_first(&tables, &[key(1, 2), key(2, 1)]).unwrap_err();
        assert_eq!(error.message(), "cannot load tables whose foreign keys go round in a circle: `a` → `b` → `a`");
    }

    #[test]
    fn a_key_with_a_null_is_no_orphan() {
        assert_eq!(
            key(1, 2).orphans_sql("delta", "parents"),
            "from delta c where c.\"a\" is not null and c.\"b\" is not null and not exists \
             (select from parents p where p.\"x\" = c.\"a\" and p.\"y\" = c.\"b\")"
        );
    }
}
