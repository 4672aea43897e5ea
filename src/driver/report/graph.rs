//! The stages as a picture: what reads what, from left to right, and which of them are current.
//!
//! A stage stands one column right of the last that it reads. Rows are those of a tree in which each stage hangs on the
//! first that it reads: its leaves take one row each, and every other stage stands amid its children. An edge that
//! others imply (a campus that a stage reads, and that its projects were read with) is left out.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::Shown;
use crate::driver::staleness::span;
use crate::driver::summary::number;
use crate::receipt::age_s;

const NODE_WIDTH: f64 = 208.0;
const NODE_HEIGHT: f64 = 48.0;
const COLUMN: f64 = 272.0;
const ROW: f64 = 64.0;
/// Of a name: what does not fit is in the title and in the table below.
const NAME_CHARS: usize = 24;

/// Where the stages stand, in columns and rows from 0, in the order that they came in.
#[derive(Debug, PartialEq)]
struct Layout {
    places: Vec<(usize, f64)>,
    edges: Vec<(usize, usize)>,
    rows: usize,
}

pub fn graph(stages: &[Shown]) -> Markup {
    let needs: Vec<Vec<usize>> = stages
        .iter()
        .map(|shown| {
            let place = |name: &str| stages.iter().position(|other| other.stage.name == name);
            let mut needs: Vec<usize> = shown.stage.needs().filter_map(place).collect();
            needs.sort_unstable();
            needs.dedup();
            needs
        })
        .collect();
    let layout = Layout::of(&needs);
    let columns = layout.places.iter().map(|(column, _)| column + 1).max().unwrap_or(1);
    let width = COLUMN * (columns - 1) as f64 + NODE_WIDTH + 2.0;
    let height = ROW * layout.rows.max(1) as f64 - (ROW - NODE_HEIGHT) + 2.0;
    let current = stages.iter().filter(|shown| shown.is_current).count();
    let label = format!("Stages and what they read: {current} of {} are current", stages.len());
    html! {
        svg.graph role="group" aria-label=(label) width=(width) height=(height) viewBox=(format!("-1 -1 {width} {height}")) {
            @for (from, to) in &layout.edges { path.edge d=(edge(layout.places[*from], layout.places[*to])) {} }
            @for (shown, place) in stages.iter().zip(&layout.places) { (node(shown, corner(*place))) }
        }
    }
}

fn node(shown: &Shown, (x, y): (f64, f64)) -> Markup {
    let name = &shown.stage.name;
    let facts = facts(shown);
    html! {
        a href={ "#stage-" (name) } aria-label={ (name) ": " (shown.state) ", " (facts) } {
            title { (name) ": " (shown.state) }
            rect.node x=(x) y=(y) width=(NODE_WIDTH) height=(NODE_HEIGHT) rx="8" {}
            circle class=(if shown.is_current { "good" } else { "warn" }) cx=(x + 16.0) cy=(y + 18.0) r="4" {}
            text.name x=(x + 28.0) y=(y + 22.5) { (short(name)) }
            text.facts x=(x + 28.0) y=(y + 38.5) { (facts) }
        }
    }
}

/// How many records, and how long ago they were fetched.
fn facts(shown: &Shown) -> String {
    let records = shown.receipt.extract.as_ref().map_or("no records yet".to_string(), |extract| {
        format!("{} record{}", number(extract.records_out), if extract.records_out == 1 { "" } else { "s" })
    });
    match &shown.receipt.fetch {
        Some(fetch) => format!("{records}, {} ago", span(age_s(&fetch.started_at))),
        None => records,
    }
}

fn short(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_string(),
    }
}

fn corner((column, row): (usize, f64)) -> (f64, f64) {
    (column as f64 * COLUMN, row * ROW)
}

fn edge(from: (usize, f64), to: (usize, f64)) -> String {
    let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
    let (x1, y1, y2) = (x1 + NODE_WIDTH, y1 + NODE_HEIGHT / 2.0, y2 + NODE_HEIGHT / 2.0);
    let bend = (x2 - x1) / 2.0;
    format!("M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} {y2:.1}", x1 + bend, x2 - bend)
}

impl Layout {
    /// `needs` are, for each stage, those that it reads; a circle cannot be, the parser refuses it.
    fn of(needs: &[Vec<usize>]) -> Layout {
        let mut order = Order { needs, columns: BTreeMap::new(), behind: BTreeMap::new() };
        (0..needs.len()).for_each(|stage| order.visit(stage));
        let implied = |stage: usize, need: usize| {
            needs[stage].iter().any(|other| *other != need && order.behind[other].contains(&need))
        };
        let mut edges = Vec::new();
        for (stage, read) in needs.iter().enumerate() {
            edges.extend(read.iter().filter(|need| !implied(stage, **need)).map(|need| (*need, stage)));
        }
        let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut hung = BTreeSet::new();
        for (from, to) in &edges {
            if hung.insert(*to) {
                children.entry(*from).or_default().push(*to);
            }
        }
        let mut rows = Rows { children: &children, rows: vec![0.0; needs.len()], next: 0 };
        (0..needs.len()).filter(|stage| !hung.contains(stage)).for_each(|root| rows.place(root));
        let places = (0..needs.len()).map(|stage| (order.columns[&stage], rows.rows[stage]));
        Layout { places: places.collect(), edges, rows: rows.next }
    }
}

/// The columns of stages, and all that stands behind each.
struct Order<'a> {
    needs: &'a [Vec<usize>],
    columns: BTreeMap<usize, usize>,
    behind: BTreeMap<usize, BTreeSet<usize>>,
}

impl Order<'_> {
    fn visit(&mut self, stage: usize) {
        if self.columns.contains_key(&stage) {
            return;
        }
        let (mut column, mut behind) = (0, BTreeSet::new());
        for need in &self.needs[stage] {
            self.visit(*need);
            column = column.max(self.columns[need] + 1);
            behind.insert(*need);
            behind.extend(&self.behind[need]);
        }
        self.columns.insert(stage, column);
        self.behind.insert(stage, behind);
    }
}

struct Rows<'a> {
    children: &'a BTreeMap<usize, Vec<usize>>,
    rows: Vec<f64>,
    next: usize,
}

impl Rows<'_> {
    fn place(&mut self, stage: usize) {
        let Some(children) = self.children.get(&stage) else {
            self.rows[stage] = self.next as f64;
            self.next += 1;
            return;
        };
        children.iter().for_each(|child| self.place(*child));
        let ends = [children.first(), children.last()].map(|child| child.map_or(0.0, |child| self.rows[*child]));
        self.rows[stage] = (ends[0] + ends[1]) / 2.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_stands_right_of_what_it_reads_and_amid_what_reads_it() {
        // The mirror of 42: cursus, campus, achievements, their links, projects, their links, sessions, coalitions.
        let needs = [vec![], vec![], vec![1], vec![2], vec![1], vec![1, 4], vec![1, 4], vec![]];
        let layout = Layout::of(&needs);
        let places = [(0, 0.0), (0, 1.75), (1, 1.0), (2, 1.0), (1, 2.5), (2, 2.0), (2, 3.0), (0, 4.0)];
        assert_eq!(layout.places, places);
        assert_eq!(layout.edges, [(1, 2), (2, 3), (1, 4), (4, 5), (4, 6)], "1 to 5 and 6 goes by way of 4");
        assert_eq!(layout.rows, 5);
        assert_eq!(Layout::of(&[]), Layout { places: vec![], edges: vec![], rows: 0 });
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        assert_eq!(short("08_coalitions"), "08_coalitions");
        assert_eq!(short(&"é".repeat(30)), format!("{}…", "é".repeat(24)));
    }
}
