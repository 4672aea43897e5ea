//! The state of a mirror as metrics, in the text format of Prometheus: for the textfile collector of node_exporter.
//!
//! All are gauges, in base units. What is not known has no sample. A file lives longer than it is true, so ages are
//! there as times too: `time() - mirror42_data_timestamp_seconds` goes on when nobody writes the file any more.

use std::fmt::Write;

use jiff::Timestamp;

use super::state::{StageState, State, TableState};

struct Metrics<'a> {
    pipeline: &'a str,
    text: String,
}

/// Names and values of a sample's labels, and its value.
type Sample<'a> = (Vec<(&'a str, &'a str)>, f64);

pub fn text(state: &State) -> String {
    let mut metrics = Metrics { pipeline: &state.pipeline, text: String::new() };
    let truth = |truth: bool| Some(f64::from(u8::from(truth)));
    let whole = |number: Option<u64>| number.map(|number| number as f64);
    metrics.one("up", "Whether the mirror's database could be asked.", truth(state.up));
    metrics.one("stale", "Whether the data is older than stale_after, or nobody knows.", truth(state.stale));
    metrics.one("stale_after_seconds", "The age at which the data is stale.", whole(Some(state.stale_after_s)));
    let time = seconds(state.fetched_at.as_deref());
    metrics.one("data_timestamp_seconds", "When the oldest of the data was fetched.", time);
    metrics.one("data_age_seconds", "How old the data was when this was written.", whole(state.age_s));
    let load = state.last_load.as_ref();
    let time = seconds(load.and_then(|load| load.finished_at.as_deref()));
    metrics.one("last_success_timestamp_seconds", "When the last load was done.", time);
    let duration = load.and_then(|load| load.duration_s);
    metrics.one("last_load_duration_seconds", "How long the last load took.", duration);
    let run = state.last_run.as_ref();
    let code = run.map(|run| f64::from(run.exit_code));
    metrics.one("last_run_exit_code", "The exit code of the last run that ended.", code);
    let time = seconds(run.map(|run| run.ended_at.as_str()));
    metrics.one("last_run_timestamp_seconds", "When it ended.", time);
    metrics.one("last_run_duration_seconds", "How long it took.", run.map(|run| run.duration_s));
    metrics.one("last_run_requests", "How many requests it took.", whole(run.map(|run| run.requests)));
    of_tables(&mut metrics, &state.tables);
    of_stages(&mut metrics, &state.stages);
    metrics.text
}

fn of_tables(metrics: &mut Metrics, tables: &[TableState]) {
    let each = |value: fn(&TableState) -> i64| {
        tables.iter().map(move |table| (vec![("table", table.table.as_str())], value(table) as f64)).collect()
    };
    metrics.many("table_rows", "Rows of the table after its last load.", each(|table| table.rows));
    let changes = tables.iter().flat_map(|table| {
        let counts = [("inserted", table.inserted), ("updated", table.updated), ("deleted", table.deleted)];
        counts.map(|(change, count)| (vec![("table", table.table.as_str()), ("change", change)], count as f64))
    });
    metrics.many("table_changed_rows", "Rows of the table that its last load wrote.", changes.collect());
    let help = "Records that the last load of the table dropped, since what they refer to is not there.";
    metrics.many("table_orphan_records", help, each(|table| table.orphans));
}

fn of_stages(metrics: &mut Metrics, stages: &[StageState]) {
    let each = |value: fn(&StageState) -> Option<f64>| {
        stages.iter().filter_map(move |stage| Some((vec![("stage", stage.name.as_str())], value(stage)?))).collect()
    };
    metrics.many(
        "stage_current",
        "Whether a run would have nothing to do for the stage.",
        each(|stage| Some(f64::from(u8::from(stage.current)))),
    );
    metrics.many("stage_records", "Records of the stage's export.", each(|stage| stage.records.map(|n| n as f64)));
    metrics.many(
        "stage_requests",
        "Requests of the stage's last fetch.",
        each(|stage| stage.requests.map(|n| n as f64)),
    );
    metrics.many(
        "stage_fetch_timestamp_seconds",
        "When the last fetch of the stage, or its program, began.",
        each(|stage| seconds(stage.fetched_at.as_deref())),
    );
}

/// Since 1970.
fn seconds(time: Option<&str>) -> Option<f64> {
    Some(time?.parse::<Timestamp>().ok()?.as_millisecond() as f64 / 1e3)
}

impl Metrics<'_> {
    fn one(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.many(name, help, value.map(|value| (Vec::new(), value)).into_iter().collect());
    }

    fn many(&mut self, name: &str, help: &str, samples: Vec<Sample>) {
        if samples.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP mirror42_{name} {help}\n# TYPE mirror42_{name} gauge");
        for (labels, value) in samples {
            let labels = [&[("pipeline", self.pipeline)][..], &labels].concat();
            let labels: Vec<String> =
                labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escaped(text))).collect();
            let _ = writeln!(self.text, "mirror42_{name}{{{}}} {value}", labels.join(","));
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_its_help_its_type_and_labels_that_cannot_break_out() {
        let mut metrics = Metrics { pipeline: "a\\b\"c\nd", text: String::new() };
        metrics.one("nothing", "Not known.", None);
        metrics.one("time_seconds", "A time.", seconds(Some("2026-11-23T01:00:49.250Z")));
        metrics.many("rows", "Rows.", vec![(vec![("table", "p")], 12_345_678.0), (vec![("table", "q")], 0.0)]);
        let pipeline = r#"pipeline="a\\b\"c\nd""#;
        assert_eq!(
            metrics.text,
            format!(
                "# HELP mirror42_time_seconds A time.\n# TYPE mirror42_time_seconds gauge\n\
                 mirror42_time_seconds{{{pipeline}}} 1795395649.25\n\
                 # HELP mirror42_rows Rows.\n# TYPE mirror42_rows gauge\n\
                 mirror42_rows{{{pipeline},table=\"p\"}} 12345678\nmirror42_rows{{{pipeline},table=\"q\"}} 0\n"
            )
        );
    }
}
