//! Loading: what is encoded here is what the server would have made of it, for any record.

use fastrand::Rng;

use crate::load::load;
use crate::space::Space;

const COLUMNS: &str =
    "id bigint, i2 smallint, i4 integer, i8 bigint, n numeric, n2 numeric(12, 3), f4 real, f8 double precision,
    t text, v varchar(40), b boolean, tz timestamptz, ts timestamp, d date, ti time, j json, jb jsonb, u uuid, by bytea,
    m mood, s short";

const TYPES: &str =
    "create type mood as enum ('sad', 'ok', 'so \"happy\"'); create domain short as varchar(20) check (value <> 'no');";

/// Two tables of the same columns: one goes the way of the diff, the other, for the sake of one column, the plain one.
fn project(records: &[String]) -> Space {
    let stage = |name: &str, table: &str, jq: &str| {
        format!(
            "[[stage]]\nname = \"{name}\"\nfetch = \"/{name}\"\njq = '{jq}'\nkey = [\"id\"]\ntable = \"{table}\"\n\n"
        )
    };
    let pipeline = format!(
        "[pipeline]\nname = \"codec\"\n\n[api]\nbase_url = \"http://127.0.0.1:1\"\n\n{}{}",
        stage("diff", "diff", "."),
        stage("plain", "plain", ".")
    );
    let schema = format!(
        "{TYPES} create table diff ({COLUMNS}, primary key (id));
         create table plain ({COLUMNS}, only_the_server_knows inet, primary key (id));"
    );
    let space = Space::with_database().file("pipeline.toml", &pipeline).file("schema.sql", &schema);
    space.export("diff", &records.iter().map(String::as_str).collect::<Vec<_>>());
    let plain: Vec<String> =
        records.iter().map(|record| record.replacen('{', "{\"only_the_server_knows\":null,", 1)).collect();
    space.export("plain", &plain.iter().map(String::as_str).collect::<Vec<_>>());
    space
}

#[test]
fn any_record_is_encoded_as_the_server_would_and_found_equal_again() {
    let mut random = Rng::with_seed(4242);
    let records: Vec<String> = (0..400).map(|id| record(&mut random, id)).collect();
    let space = project(&records);
    // The first load copies into empty tables; the second compares; the third writes what changed.
    load(&space);
    same(&space);
    load(&space);
    let touched = "select sum(updated + inserted + deleted) from mirror42.run_tables
                    where run_id = (select id from mirror42.runs order by started_at desc limit 1)";
    assert_eq!(space.query(touched), ["0"]);
    let mut random = Rng::with_seed(43);
    let changed: Vec<String> = records
        .iter()
        .enumerate()
        .map(|(id, old)| if id % 3 == 0 { record(&mut random, id) } else { old.clone() })
        .collect();
    let changed_space = project(&changed);
    for stage in ["diff", "plain"] {
        for file in ["all.json", "stage.json"] {
            let path = format!("exports/{stage}/{file}");
            std::fs::copy(changed_space.path().join(&path), space.path().join(&path)).unwrap();
        }
    }
    load(&space);
    assert_eq!(space.query(touched), ["268"]);
    same(&space);
}

/// Both tables hold the same rows, and the diff alone, without the server's second look, finds each equal to its export.
fn same(space: &Space) {
    let rows = |table: &str| {
        let columns: Vec<&str> = COLUMNS.split(',').filter_map(|column| column.split_whitespace().next()).collect();
        let columns = columns.into_iter().filter(|column| *column != "3)").collect::<Vec<_>>().join(", ");
        space.query(&format!("select row({columns})::text from {table} order by id"))
    };
    let (diff, plain) = (rows("diff"), rows("plain"));
    assert_eq!(diff.len(), 400);
    for (diff, plain) in diff.iter().zip(&plain) {
        assert_eq!(diff, plain);
    }
    let outcome = space.run("mirror42-validate", &["-v", "--deep"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    let plain: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("goes the plain way")).collect();
    assert_eq!(plain.len(), 1, "{plain:?}");
    assert!(
        plain[0].ends_with(" plain: goes the plain way: column `only_the_server_knows` is of type inet"),
        "{plain:?}"
    );
}

fn record(random: &mut Rng, id: usize) -> String {
    let columns: [(&str, String); 20] = [
        ("i2", random.i16(..).to_string()),
        ("i4", random.i32(..).to_string()),
        ("i8", format!("\"{}\"", random.i64(..))),
        ("n", number(random)),
        ("n2", format!("{}.{}", random.i32(-99999..99999), random.u32(..))),
        ("f4", format!("{}", random.f32() * 1e9)),
        ("f8", format!("{:e}", random.f64() * 1e-300)),
        ("t", string(random, 30)),
        ("v", string(random, 6)),
        ("b", random.bool().to_string()),
        ("tz", format!("\"{}{}\"", moment(random), ["Z", "", "+08:00", "-0330", "+01"][random.usize(..5)])),
        ("ts", format!("\"{}\"", moment(random))),
        ("d", format!("\"{}\"", &moment(random)[..10])),
        ("ti", format!("\"{}\"", &moment(random)[11..])),
        ("j", json(random, 0)),
        ("jb", json(random, 0)),
        ("u", uuid(random)),
        ("by", format!("\"\\\\x{:08x}\"", random.u32(..))),
        ("m", ["\"sad\"", "\"ok\"", "\"so \\\"happy\\\"\""][random.usize(..3)].to_string()),
        ("s", string(random, 3)),
    ];
    let mut record = format!("{{\"id\":{}", id as i64 * 3 - 500);
    for (name, value) in columns {
        let value = if random.u8(..8) == 0 { "null".to_string() } else { value };
        record.push_str(&format!(",\"{name}\":{value}"));
    }
    record + "}"
}

fn moment(random: &mut Rng) -> String {
    let fraction = ["", ".5", ".004", ".123456", ".750000000"][random.usize(..5)];
    let (year, month, day) = (random.u32(1..9999), random.u32(1..=12), random.u32(1..=28));
    let (hour, minute, second) = (random.u32(..24), random.u32(..60), random.u32(..60));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}")
}

fn uuid(random: &mut Rng) -> String {
    let digits = format!("{:032x}", random.u128(..));
    let part = |from: usize, to: usize| &digits[from..to];
    format!("\"{}-{}-{}-{}-{}\"", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn number(random: &mut Rng) -> String {
    let sign = if random.bool() { "-" } else { "" };
    let whole = if random.bool() { "0".to_string() } else { random.u64(1..).to_string() };
    let fraction = ["", ".0", ".000100", ".123456789012345678901234567890"][random.usize(..4)];
    let exponent = ["", "e5", "E-7", "e+12", "e0"][random.usize(..5)];
    format!("{sign}{whole}{fraction}{exponent}")
}

fn string(random: &mut Rng, most: usize) -> String {
    let mut text = String::from("\"");
    for _ in 0..random.usize(..most) {
        match random.u8(..5) {
            0 => text.push_str(["\\n", "\\t", "\\r", "\\\"", "\\\\", "\\/", "\\b", "\\f"][random.usize(..8)]),
            1 => text.push_str(&format!("\\u{:04x}", random.u16(1..0xd800))),
            2 => text.push_str("\\ud83d\\ude00"),
            3 => {
                let c = random.char(' '..);
                text.push(if matches!(c, '"' | '\\') { 'x' } else { c });
            }
            _ => text.push(random.alphanumeric()),
        }
    }
    text + "\""
}

fn json(random: &mut Rng, depth: usize) -> String {
    let space = if random.u8(..6) == 0 { " " } else { "" };
    let kinds = if depth > 3 { 4 } else { 6 };
    match random.u8(..kinds) {
        0 => number(random),
        1 => string(random, 8),
        2 => ["true", "false"][random.usize(..2)].to_string(),
        // A null of the whole column is none of `jsonb`.
        3 if depth > 0 => "null".to_string(),
        4 => {
            let items: Vec<String> = (0..random.usize(..4)).map(|_| json(random, depth + 1)).collect();
            format!("[{space}{}]", items.join(&format!("{space},{space}")))
        }
        _ => {
            let names = ["\"a\"", "\"b\"", "\"bb\"", "\"é\"", "\"\\u0061\"", "\"zz z\""];
            let members: Vec<String> = (0..random.usize(..5))
                .map(|_| format!("{}{space}:{space}{}", names[random.usize(..6)], json(random, depth + 1)))
                .collect();
            format!("{{{}{space}}}", members.join(","))
        }
    }
}
