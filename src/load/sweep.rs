//! What the server would sweep away with rows that go, by `on delete cascade`, and what must stay all the same.
//!
//! Where deletions come last, nothing refers to a row that goes any more but what goes with it: records that would are
//! dropped as orphans. That holds as far as the loader knows the keys; by those that it does not ([`is_sure`]) rows are looked for,
//! and a load that would lose one is refused ([`check`]).
//!
//! Where deletions come first, rows that are to be moved still refer to what goes, and others to them in turn. They are kept
//! ([`keep`]), with those of tables that no stage fills, and put back when what they refer to is there ([`put_back`]).

use postgres::Transaction;

use super::cascade::{self, Child};
use super::work::{Way, Work};
use super::write::{self, Back, SHOWN_KEYS, rows_that_go};
use crate::codec::INGESTED_AT;
use crate::diff::plain::Sql;
use crate::error::{Error, Result};
use crate::pg::{failure, join_condition, quoted, quoted_list, sample, shown_sample};

/// What tells a row from all others while nothing is written, in a partitioned table too.
const PLACE: &str = "t.tableoid as \"mirror42 table\", t.ctid as \"mirror42 row\"";
const SAME_PLACE: &str = "k.\"mirror42 table\" = t.tableoid and k.\"mirror42 row\" = t.ctid";

/// The foreign keys by which rows of a load can take others along, and the tables that lose some.
struct Reach<'a, 'b> {
    all: &'a [Work<'b>],
    keys: Vec<Child>,
}

/// Rows that the server sweeps away and that are to stay.
pub struct Kept {
    nodes: Vec<Node>,
    keys: Vec<Child>,
}

/// A table with rows that are kept.
struct Node {
    oid: u32,
    quoted: String,
    name: String,
    /// The temporary table of its rows.
    rows: String,
    /// A stage fills it.
    is_loaded: bool,
    is_back: bool,
}

impl<'a, 'b> Reach<'a, 'b> {
    /// From the tables that lose rows, by these actions of foreign keys (`pg_constraint.confdeltype`).
    fn of(tx: &mut Transaction, all: &'a [Work<'b>], actions: &[&str]) -> Result<Reach<'a, 'b>> {
        let mut reached: Vec<u32> =
            all.iter().filter(|work| work.counts.deleted > 0).map(|work| work.job.table.oid).collect();
        let (mut keys, mut from) = (Vec::new(), 0);
        while from < reached.len() {
            let found = cascade::children(tx, &reached[from..], &[], actions)?;
            from = reached.len();
            for key in found {
                if key.cascades && !reached.contains(&key.oid) {
                    reached.push(key.oid);
                }
                keys.push(key);
            }
        }
        Ok(Reach { all, keys })
    }

    fn loaded(&self, oid: u32) -> Option<&'a Work<'b>> {
        self.all.iter().find(|work| work.job.table.oid == oid)
    }

    /// The rows of a table that go for good, as a table of `from`; none if there are none. Of a table that no stage fills,
    /// [`Reach::doom`] has found them.
    fn going(&self, oid: u32) -> Option<String> {
        match self.loaded(oid) {
            Some(work) => (work.counts.deleted > 0).then(|| rows_that_go(work)),
            None => Some(doomed(oid)),
        }
    }

    /// The children in the order in which they were reached, each once, as one of its keys.
    fn children(&self, wanted: impl Fn(&Child) -> bool) -> Vec<&Child> {
        let mut children: Vec<&Child> = Vec::new();
        for key in self.keys.iter().filter(|key| key.cascades && wanted(key)) {
            if !children.iter().any(|child| child.oid == key.oid) {
                children.push(key);
            }
        }
        children
    }

    /// Finds what goes for good in tables that no stage fills.
    fn doom(&self, tx: &mut Transaction) -> Result<()> {
        let outside = |key: &Child| self.loaded(key.oid).is_none();
        for child in self.children(outside) {
            create(tx, &doomed(child.oid), child)?;
        }
        let keys: Vec<&Child> = self.keys.iter().filter(|key| key.cascades && outside(key)).collect();
        until_no_more(|| {
            let mut more = 0;
            for key in &keys {
                let Some(going) = self.going(key.parent) else { continue };
                more += add(tx, &doomed(key.oid), key, &[going], "true")?;
            }
            Ok(more)
        })
    }
}

/// Where the rows of a table that go for good are, if no stage fills it.
fn doomed(oid: u32) -> String {
    format!("mirror42_doomed_{oid}")
}

fn kept(oid: u32) -> String {
    format!("mirror42_kept_{oid}")
}

fn create(tx: &mut Transaction, name: &str, child: &Child) -> Result<()> {
    let sql =
        format!("create temp table {name} on commit drop as select {PLACE}, t.* from {} t with no data", child.quoted);
    tx.batch_execute(&sql).map_err(|error| failed(&child.name)(&error))
}

fn failed(table: &str) -> impl Fn(&postgres::Error) -> Error {
    let doing = format!("could not look for what goes from `{table}`");
    move |error| failure(&doing, error)
}

fn until_no_more(mut step: impl FnMut() -> Result<u64>) -> Result<()> {
    while step()? > 0 {}
    Ok(())
}

/// Adds to `list` the rows that refer by `key` to any of `parents`; those alone for which `wanted` is true.
fn add(tx: &mut Transaction, list: &str, key: &Child, parents: &[String], wanted: &str) -> Result<u64> {
    let same = join_condition("p", &key.parent_columns, "t", &key.columns);
    let refers = parents.iter().map(|parents| format!("exists (select from {parents} p where {same})"));
    let sql = format!(
        "insert into {list} select {PLACE}, t.* from {} t
          where ({}) and {wanted} and not exists (select from {list} k where {SAME_PLACE})",
        key.quoted,
        refers.collect::<Vec<_>>().join(" or "),
    );
    tx.execute(&sql, &[]).map_err(|error| failed(&key.name)(&error))
}

/// SQL for that the row `t` does not go for good.
fn stays(reach: &Reach, key: &Child) -> String {
    match reach.loaded(key.oid) {
        Some(work) if work.counts.deleted > 0 => {
            let primary = &work.job.table.primary_key;
            format!("not exists (select from {} g where {})", work.gone, join_condition("t", primary, "g", primary))
        }
        Some(_) => "true".to_string(),
        None => format!("not exists (select from {} k where {SAME_PLACE})", doomed(key.oid)),
    }
}

/// Whether no row that the export has can refer by this key to one that is gone: the loader has looked at each.
fn is_sure(reach: &Reach, key: &Child) -> bool {
    let read = reach.loaded(key.oid).filter(|_| reach.loaded(key.parent).is_some()).map(|work| &work.read);
    read.is_some_and(|read| {
        !read.unsure && read.orphans.iter().any(|orphans| orphans.key.name == key.key && orphans.key.child == key.oid)
    })
}

/// Whether rows of the load may go by this key, or lose by it what the export says, so that the server has to be asked.
fn is_in_doubt(reach: &Reach, key: &Child) -> bool {
    reach.loaded(key.oid).is_some_and(|work| {
        // What becomes of columns that no export fills is the schema's business.
        let is_ours = key.cascades || key.columns.iter().any(|column| work.columns.contains(column));
        is_ours && !is_sure(reach, key)
    })
}

/// Refuses a load that would lose, or change, a row that the export has, since it refers to one that goes; what is new and
/// what changed is written already. Costs a look into the catalog where the loader knows all keys.
pub fn check(tx: &mut Transaction, all: &[Work]) -> Result<()> {
    // Cascade, set null, set default. Where the server does nothing of the kind, it refuses by itself.
    let reach = Reach::of(tx, all, &["c", "n", "d"])?;
    let unsure = |key: &&Child| is_in_doubt(&reach, key);
    if !reach.keys.iter().any(|key| unsure(&key)) {
        return Ok(());
    }
    reach.doom(tx)?;
    for key in reach.keys.iter().filter(unsure) {
        let (Some(work), Some(going)) = (reach.loaded(key.oid), reach.going(key.parent)) else { continue };
        let same = join_condition("p", &key.parent_columns, "t", &key.columns);
        let columns = quoted_list("t.", &work.job.table.primary_key);
        let query = format!(
            "select {columns} from {} t where exists (select from {going} p where {same}) and {} order by {columns}",
            key.quoted,
            stays(&reach, key)
        );
        let first = sample(tx, &query, SHOWN_KEYS).map_err(|error| failed(&key.name)(&error))?;
        if !first.0.is_empty() {
            return Err(lost(work, key, &first));
        }
    }
    Ok(())
}

fn lost(work: &Work, key: &Child, first: &(Vec<String>, bool)) -> Error {
    let how = if key.cascades { "lost" } else { "changed" };
    Error::failed(format!("rows of `{}` would be {how} that the export has", work.name()))
        .at(work.job.export.shown())
        .detail(format!(
            "They refer by `{}` ({}) to rows that go, and only the server can tell: {}.",
            key.key,
            key.columns.join(", "),
            shown_sample(first)
        ))
        .hint("Let them refer to other rows, or leave such records out in the jq filter.")
}

/// Refuses a load in which deletions that come first would have the server take a value from rows that stay: by `on delete set
/// null` or `set default`, from what refers to rows that are put back, or that cannot be compared here.
fn check_values(tx: &mut Transaction, reach: &Reach, children: &[&Child]) -> Result<()> {
    let is_child = |oid: u32| children.iter().any(|child| child.oid == oid);
    for key in reach.keys.iter().filter(|key| !key.cascades) {
        let mut parents: Vec<String> = Vec::new();
        if is_child(key.parent) {
            parents.push(kept(key.parent));
        }
        if is_in_doubt(reach, key) {
            parents.extend(reach.going(key.parent));
        }
        let same = join_condition("p", &key.parent_columns, "t", &key.columns);
        for parents in parents {
            // A row that is kept comes back with its values.
            let is_kept = format!("exists (select from {} k where {SAME_PLACE})", kept(key.oid));
            let is_kept = if is_child(key.oid) { is_kept } else { "false".to_string() };
            let columns = quoted_list("t.", &key.columns);
            let query = format!(
                "select distinct {columns} from {} t
                  where exists (select from {parents} p where {same}) and not {is_kept} and {} order by {columns}",
                key.quoted,
                stays(reach, key)
            );
            let first = sample(tx, &query, SHOWN_KEYS).map_err(|error| failed(&key.name)(&error))?;
            if !first.0.is_empty() {
                return Err(Error::failed(format!(
                    "rows of `{}` would lose what they refer to by `{}`",
                    key.name, key.key
                ))
                .detail(format!(
                    "A value that must be unique passes to another row, so that deletions must come first: {}.",
                    shown_sample(&first)
                ))
                .hint("Declare the constraint that is unique `deferrable initially deferred` (docs/pipeline.md)."));
            }
        }
    }
    Ok(())
}

/// Nobody writes rows of tables that no stage fills while copies of them are put in their place.
fn lock_others(tx: &mut Transaction, reach: &Reach, children: &[&Child]) -> Result<()> {
    for child in children.iter().filter(|child| reach.loaded(child.oid).is_none()) {
        tx.batch_execute(&format!("lock table {} in share row exclusive mode", child.quoted))
            .map_err(|error| failed(&child.name)(&error))?;
    }
    Ok(())
}

/// Keeps what deletions that come first would sweep away and what is to stay.
pub fn keep(tx: &mut Transaction, all: &[Work]) -> Result<Kept> {
    let reach = Reach::of(tx, all, &["c", "n", "d"])?;
    let children = reach.children(|_| true);
    lock_others(tx, &reach, &children)?;
    reach.doom(tx)?;
    for child in &children {
        create(tx, &kept(child.oid), child)?;
    }
    until_no_more(|| {
        let mut more = 0;
        for key in reach.keys.iter().filter(|key| key.cascades) {
            let mut parents: Vec<String> = reach.going(key.parent).into_iter().collect();
            if children.iter().any(|child| child.oid == key.parent) {
                parents.push(kept(key.parent));
            }
            if !parents.is_empty() {
                more += add(tx, &kept(key.oid), key, &parents, &stays(&reach, key))?;
            }
        }
        Ok(more)
    })?;
    check_values(tx, &reach, &children)?;
    let mut nodes = Vec::new();
    for child in children {
        let rows = kept(child.oid);
        let any = tx.query_one(&format!("select exists (select from {rows})"), &[]);
        if any.map_err(|error| failed(&child.name)(&error))?.get(0) {
            nodes.push(Node {
                oid: child.oid,
                quoted: child.quoted.clone(),
                name: child.name.clone(),
                rows,
                is_loaded: reach.loaded(child.oid).is_some(),
                is_back: false,
            });
        }
    }
    Ok(Kept { nodes, keys: reach.keys })
}

/// Notes how the rows of a table that were kept are to change; none if none of it were.
pub fn prepare_back(tx: &mut Transaction, kept: &Kept, work: &Work, run_id: &str) -> Result<Option<Back>> {
    let Some(node) = kept.node(work) else { return Ok(None) };
    let rows = node.rows.clone();
    let is_staged = match &work.way {
        Way::Diff { changed, .. } => changed.rows() > 0,
        Way::Plain => true,
        Way::Direct | Way::Later => false,
    };
    if !is_staged {
        let sql = insert_sql(tx, node, "", |column| format!("t.{}", quoted(column)))?;
        return Ok(Some(Back { rows, sql, changed: 0 }));
    }
    let changed = write::note_changes(tx, work, &rows, run_id)?;
    let sql = Sql::new(&work.job, &work.columns);
    let there = format!("d.{} is not null", quoted(&work.job.table.primary_key[0]));
    let differs = format!("{there} and {}", sql.differs.as_deref().unwrap_or("false"));
    let join = format!("left join {} d on {}", work.delta, sql.same_key);
    let sql = insert_sql(tx, node, &join, |name| {
        let column = quoted(name);
        match name {
            INGESTED_AT => format!("case when {differs} then now() else t.{column} end"),
            _ if work.columns.iter().any(|filled| filled == name) => {
                format!("case when {there} then d.{column} else t.{column} end")
            }
            _ => format!("t.{column}"),
        }
    })?;
    Ok(Some(Back { rows, sql, changed }))
}

/// Puts the rows of a table back that were kept; returns how many are others than they were.
pub fn put_back(tx: &mut Transaction, kept: &mut Kept, work: &Work, run_id: &str) -> Result<u64> {
    let Some(Back { sql, changed, .. }) = prepare_back(tx, kept, work, run_id)? else { return Ok(0) };
    tx.execute(&sql, &[]).map_err(|error| not_put_back(work.name(), &error))?;
    kept.is_back(work);
    Ok(changed)
}

/// Puts the rows back of those tables that no stage fills, each once all that its rows refer to is there again.
pub fn put_back_others(tx: &mut Transaction, kept: &mut Kept) -> Result<()> {
    while let Some(place) = kept.next_of_others() {
        let node = &mut kept.nodes[place];
        log::debug!("rows of `{}` that went with others are put back", node.name);
        let sql = insert_sql(tx, node, "", |column| format!("t.{}", quoted(column)))?;
        tx.execute(&sql, &[]).map_err(|error| not_put_back(&node.name, &error))?;
        node.is_back = true;
    }
    Ok(())
}

impl Kept {
    fn node(&self, work: &Work) -> Option<&Node> {
        self.nodes.iter().find(|node| node.oid == work.job.table.oid)
    }

    /// The rows of this table are in it again.
    pub fn is_back(&mut self, work: &Work) {
        self.set_back(work, true);
    }

    /// What put them back was rolled back.
    pub fn is_away_again(&mut self, work: &Work) {
        self.set_back(work, false);
    }

    fn set_back(&mut self, work: &Work, is_back: bool) {
        let nodes = self.nodes.iter_mut().filter(|node| node.oid == work.job.table.oid);
        nodes.for_each(|node| node.is_back = is_back);
    }

    fn next_of_others(&self) -> Option<usize> {
        let is_away = |oid: u32| self.nodes.iter().any(|node| node.oid == oid && !node.is_back);
        self.nodes.iter().position(|node| {
            let mut parents = self.keys.iter().filter(|key| key.oid == node.oid && key.parent != node.oid);
            !node.is_loaded && !node.is_back && !parents.any(|key| is_away(key.parent))
        })
    }

    /// An error if there are rows that could not be put back.
    pub fn check_back(&self) -> Result<()> {
        match self.nodes.iter().find(|node| !node.is_back) {
            None => Ok(()),
            Some(node) => Err(Error::failed(format!("rows of `{}` would be lost with rows that stay", node.name))
                .detail("Its foreign keys go round in a circle, so that the loader cannot put them back.")),
        }
    }
}

/// The statement that inserts the rows `t` of a node into its table: of each column what `value` says.
fn insert_sql(tx: &mut Transaction, node: &Node, join: &str, value: impl Fn(&str) -> String) -> Result<String> {
    let columns = tx.query(include_str!("../sql/columns_to_fill.sql"), &[&node.oid]);
    let columns = columns.map_err(|error| not_put_back(&node.name, &error))?;
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    Ok(format!(
        "insert into {} ({}) overriding system value select {} from {} t {join}",
        node.quoted,
        quoted_list("", &columns),
        columns.iter().map(|column| value(column)).collect::<Vec<_>>().join(", "),
        node.rows
    ))
}

fn not_put_back(table: &str, error: &postgres::Error) -> Error {
    failure(&format!("could not put rows of `{table}` back"), error)
}
