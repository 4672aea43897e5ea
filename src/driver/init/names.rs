//! Names of an API as names of SQL and of jq.

use std::collections::BTreeSet;

/// What Postgres cuts longer names to.
const LONGEST_BYTES: usize = 63;

/// Columns that every table has already: the loader's, and the server's own.
const TAKEN: [&str; 7] = ["ingested_at", "cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

/// What Postgres 14 to 18 do not take for a column or a table without quotes.
pub const RESERVED: [&str; 101] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// Words that are no names to jq.
const JQ_WORDS: [&str; 19] = [
    "and", "as", "catch", "def", "elif", "else", "end", "foreach", "if", "import", "include", "label", "not", "or",
    "reduce", "then", "try", "break", "__loc__",
];

/// Gives names that are good for columns, each once.
pub struct Names(BTreeSet<String>);

impl Names {
    pub fn new() -> Names {
        Names(TAKEN.map(String::from).into())
    }

    /// The name of the column for the member `member`.
    pub fn column(&mut self, member: &str) -> String {
        let plain = snake(member);
        let numbered = (2..).map(|n| format!("{plain}_{n}"));
        let free = [plain.clone()].into_iter().chain(numbered).find(|name| !self.0.contains(name));
        let name = free.unwrap_or(plain);
        self.0.insert(name.clone());
        name
    }
}

/// `createdAt`, `created-at` and `Created at` as `created_at`; `active?` as `active`.
pub fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        if !c.is_ascii_alphanumeric() {
            out.push('_');
            continue;
        }
        let before = i.checked_sub(1).map(|i| chars[i]);
        let after_lower = before.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let begins_word =
            before.is_some_and(|c| c.is_ascii_uppercase()) && chars.get(i + 1).is_some_and(|c| c.is_ascii_lowercase());
        if c.is_ascii_uppercase() && (after_lower || begins_word) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    let words: Vec<&str> = out.split('_').filter(|word| !word.is_empty()).collect();
    let joined = words.join("_");
    let mut name = match joined.chars().next() {
        None => "column".to_string(),
        Some(first) if first.is_ascii_digit() => format!("_{joined}"),
        Some(_) => joined,
    };
    // A number may come behind it.
    name.truncate(LONGEST_BYTES - 4);
    name
}

/// A name of ours as SQL takes it.
pub fn in_sql(name: &str) -> String {
    if RESERVED.contains(&name) { format!("\"{name}\"") } else { name.to_string() }
}

/// Whether jq takes `.name`.
fn is_plain(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !JQ_WORDS.contains(&name)
}

/// The step of a jq path into a member. Within a literal text of TOML: no quote of it is a single one.
pub fn step(member: &str) -> String {
    if is_plain(member) { format!(".{member}") } else { format!(".{}", quoted(member)) }
}

/// A member of an object in jq: `id`, or `name: .path`.
pub fn in_jq(name: &str, path: &str) -> String {
    match is_plain(name) {
        true if path == format!(".{name}") => name.to_string(),
        true => format!("{name}: {path}"),
        false => format!("{}: {path}", quoted(name)),
    }
}

fn quoted(name: &str) -> String {
    toml(name).replace('\'', "\\u0027")
}

/// A text as TOML and JSON have it, in quotes.
pub fn toml(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_that_sql_takes() {
        for (member, name) in [
            ("id", "id"),
            ("createdAt", "created_at"),
            ("HTMLUrl", "html_url"),
            ("active?", "active"),
            ("@type", "type"),
            ("Full Name", "full_name"),
            ("2fa", "_2fa"),
            ("_id", "id"),
            ("größe", "gr_e"),
            ("→", "column"),
            ("ipV4", "ip_v4"),
        ] {
            assert_eq!(snake(member), name, "{member}");
        }
        assert_eq!(snake(&"a".repeat(99)).len(), 59);
    }

    #[test]
    fn no_two_columns_have_one_name() {
        let mut names = Names::new();
        let given = ["id", "_id", "ID", "xmin", "ingested_at"].map(|member| names.column(member));
        assert_eq!(given, ["id", "id_2", "id_3", "xmin_2", "ingested_at_2"]);
    }

    #[test]
    fn jq_is_told_odd_names_in_quotes() {
        assert_eq!(in_jq("id", &step("id")), "id");
        assert_eq!(in_jq("active", &step("active?")), "active: .\"active?\"");
        assert_eq!(in_jq("end", &step("end")), "\"end\": .\"end\"");
        assert_eq!(step("it's \"it\" \\(1)"), ".\"it\\u0027s \\\"it\\\" \\\\(1)\"");
        assert_eq!(in_sql("order"), "\"order\"");
        assert_eq!(in_sql("orders"), "orders");
    }
}
