//! The graph for eyes: a box a process, an arrow a file.

use std::fmt::Write;

use super::{Kind, Role, Step};
use crate::error::printable;
use crate::pipeline::Pipeline;

struct Node {
    id: String,
    lines: Vec<String>,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The API.
    Cloud,
    Box,
    /// The database.
    Cylinder,
}

struct Arrow {
    from: String,
    to: String,
    lines: Vec<String>,
}

/// The drawing: the API, a node for each step, the database.
fn drawing(pipeline: &Pipeline, steps: &[Step]) -> (Vec<Node>, Vec<Arrow>) {
    let node = |id: &str, lines: Vec<String>, shape| Node { id: id.to_string(), lines, shape };
    let arrow = |from: &str, to: &str, lines: Vec<String>| Arrow { from: from.into(), to: to.into(), lines };
    let mut nodes = vec![node("api", vec![pipeline.api.base_url.clone()], Shape::Cloud)];
    let mut arrows = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let id = id(number, step);
        nodes.push(node(&id, lines(step), Shape::Box));
        match step.kind {
            Kind::Fetch => arrows.push(arrow("api", &id, Vec::new())),
            Kind::Load => arrows.push(arrow(&id, "database", vec![tables(step)])),
            Kind::Validate => arrows.push(arrow("database", &id, Vec::new())),
            Kind::Exec | Kind::Extract => {}
        }
        for (number, writer) in steps.iter().enumerate() {
            let read = step.inputs.iter().filter(|input| writer.outputs.iter().any(|output| output.path == input.path));
            let labels: Vec<String> = read.map(|input| label(&input.path, input.role)).collect();
            if !labels.is_empty() {
                arrows.push(arrow(&self::id(number, writer), &id, labels));
            }
        }
    }
    nodes.push(node("database", vec!["Postgres".to_string()], Shape::Cylinder));
    (nodes, arrows)
}

fn id(number: usize, step: &Step) -> String {
    match step.kind {
        Kind::Load => "load".to_string(),
        Kind::Validate => "validate".to_string(),
        Kind::Fetch | Kind::Exec | Kind::Extract => format!("step{}", number + 1),
    }
}

/// The command, a line for each stage of several; and what is asked for, or started.
fn lines(step: &Step) -> Vec<String> {
    let (program, words) = step.command.split_at(step.command.len() - step.stages.len());
    let mut lines = vec![program.join(" ")];
    match words {
        [stage] => lines[0] += &format!(" {stage}"),
        stages => lines.extend(stages.iter().cloned()),
    }
    for stage in &step.stages {
        lines.extend(match step.kind {
            Kind::Fetch => stage.fetch().map(|fetch| fetch.path.clone()),
            Kind::Exec => {
                stage.run().map(|run| [std::slice::from_ref(&run.program), &run.arguments[..]].concat().join(" "))
            }
            Kind::Extract | Kind::Load | Kind::Validate => None,
        });
    }
    lines
}

fn tables(step: &Step) -> String {
    let count = step.inputs.iter().filter(|input| matches!(input.role, Role::Table(_))).count();
    format!("{count} {}", if count == 1 { "table" } else { "tables" })
}

/// `02_campus/all.json ($campus)`
fn label(path: &str, role: Role) -> String {
    let path = path.strip_prefix("exports/").unwrap_or(path);
    match role.to_string() {
        role if role.is_empty() => path.to_string(),
        role => format!("{path} ({role})"),
    }
}

/// In the language of Graphviz.
pub fn dot(pipeline: &Pipeline, steps: &[Step]) -> String {
    let (nodes, arrows) = drawing(pipeline, steps);
    let escaped = |text: &str| printable(text).replace('\\', "\\\\").replace('"', "\\\"");
    let label = |lines: &[String]| {
        // `\l` ends a line that is set to the left.
        let lines: Vec<String> = lines.iter().map(|line| escaped(line) + "\\l").collect();
        format!("\"{}\"", lines.concat())
    };
    let mut text = format!("digraph \"{}\" {{\n", escaped(&pipeline.name));
    text += "    rankdir=LR; node [shape=box fontname=\"sans-serif\" fontsize=11]; \
             edge [fontname=\"sans-serif\" fontsize=9];\n";
    for Node { id, lines, shape } in &nodes {
        let shape = match shape {
            Shape::Cloud => " shape=oval",
            Shape::Box => "",
            Shape::Cylinder => " shape=cylinder",
        };
        let _ = writeln!(text, "    {id} [label={}{shape}];", label(lines));
    }
    for Arrow { from, to, lines } in &arrows {
        let label = if lines.is_empty() { String::new() } else { format!(" [label={}]", label(lines)) };
        let _ = writeln!(text, "    {from} -> {to}{label};");
    }
    text + "}\n"
}

/// In the language of Mermaid.
pub fn mermaid(pipeline: &Pipeline, steps: &[Step]) -> String {
    let (nodes, arrows) = drawing(pipeline, steps);
    let label = |lines: &[String]| {
        let escaped = |line: &String| {
            // By entities, or Mermaid takes them for HTML and its own marks.
            printable(line).chars().fold(String::new(), |mut text, c| {
                match c {
                    '#' | '"' | '<' | '>' | '&' | '`' => {
                        let _ = write!(text, "#{};", u32::from(c));
                    }
                    c => text.push(c),
                }
                text
            })
        };
        format!("\"{}\"", lines.iter().map(escaped).collect::<Vec<_>>().join("<br>"))
    };
    let mut text = "flowchart LR\n".to_string();
    for Node { id, lines, shape } in &nodes {
        let (open, close) = match shape {
            Shape::Cloud => ("([", "])"),
            Shape::Box => ("[", "]"),
            Shape::Cylinder => ("[(", ")]"),
        };
        let _ = writeln!(text, "    {id}{open}{}{close}", label(lines));
    }
    for Arrow { from, to, lines } in &arrows {
        let label = if lines.is_empty() { String::new() } else { format!("|{}|", label(lines)) };
        let _ = writeln!(text, "    {from} -->{label} {to}");
    }
    text
}
