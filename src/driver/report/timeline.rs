//! The last run as a table of steps with a bar each, on one scale of time.

use maud::{Markup, html};

use crate::driver::record::{Record, Step};

/// Marks of the scale, at the most.
const MARKS: u64 = 6;

/// The steps of the run, those that had nothing to do left out.
pub fn timeline(record: &Record) -> Markup {
    let scale = Scale::of(record);
    html! {
        div.scroll tabindex="0" role="region" aria-label="Timeline of the last run" {
            table.timeline {
                caption { "Steps of run " (record.id) ", in the order in which they began" }
                thead { tr {
                    th scope="col" { "Step" }
                    th.track scope="col" {
                        span.hidden { "When" }
                        @for mark in scale.marks() {
                            span.mark style=(format!("left:{:.2}%", scale.share(mark * 1000))) aria-hidden="true" { (seconds(mark * 1000, 0)) }
                        }
                    }
                    th.number scope="col" { "Time" }
                } }
                tbody { @for step in &record.steps { (row(step, &scale)) } }
            }
        }
    }
}

fn row(step: &Step, scale: &Scale) -> Markup {
    let start_ms = scale.since_start_ms(&step.started_at);
    let took_ms = if step.ended_at.is_some() { step.duration_ms } else { scale.whole_ms.saturating_sub(start_ms) };
    let left = scale.share(start_ms).min(100.0);
    let width = scale.share(took_ms).clamp(0.3, 100.3 - left);
    let failed = step.exit_code.is_some_and(|code| code != 0);
    let name = step.stage.as_deref().unwrap_or("all tables");
    let title = format!("{} {name}: {}, began {} after the start", step.what, step.why, seconds(start_ms, 1));
    html! {
        tr {
            th scope="row" { span.what { (step.what) } " " (name) }
            td.track {
                @for mark in scale.marks() { i style=(format!("left:{:.2}%", scale.share(mark * 1000))) {} }
                span class={ "step " (step.what) @if failed { " failed" } } title=(title)
                    style=(format!("left:{left:.2}%;width:{width:.2}%")) {}
            }
            td.number {
                @if step.ended_at.is_none() { "not ended" }
                @else { (seconds(took_ms, 1)) @if failed { " " span.bad { "failed" } } }
            }
        }
    }
}

/// From the start of the run to its end.
struct Scale {
    start_ms: i64,
    whole_ms: u64,
}

impl Scale {
    fn of(record: &Record) -> Scale {
        let mut scale =
            Scale { start_ms: instant_ms(&record.started_at).unwrap_or(0), whole_ms: record.duration_ms.max(1) };
        let ends = record.steps.iter().map(|step| scale.since_start_ms(&step.started_at) + step.duration_ms);
        scale.whole_ms = ends.max().unwrap_or(0).max(scale.whole_ms);
        scale
    }

    fn since_start_ms(&self, time: &str) -> u64 {
        let since = instant_ms(time).map_or(0, |at| at - self.start_ms);
        u64::try_from(since).unwrap_or(0)
    }

    /// In percent.
    fn share(&self, ms: u64) -> f64 {
        100.0 * ms as f64 / self.whole_ms as f64
    }

    /// Whole seconds from 0 on, at steps that people count in.
    fn marks(&self) -> impl Iterator<Item = u64> {
        let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
        let whole_s = self.whole_ms / 1000;
        let step = steps.into_iter().find(|step| whole_s / step < MARKS).unwrap_or(86_400);
        // The last would stand in the way of what is right of it.
        (0..=whole_s).step_by(step as usize).filter(move |mark| *mark == 0 || mark * 1000 * 20 <= self.whole_ms * 19)
    }
}

fn instant_ms(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
}

/// A length of time: seconds up to two minutes, then minutes and seconds.
fn seconds(ms: u64, digits: usize) -> String {
    match ms / 1000 {
        0..120 => format!("{:.digits$} s", ms as f64 / 1e3),
        s => format!("{} min {:02} s", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_few_and_round() {
        let marks = |whole_ms| Scale { start_ms: 0, whole_ms }.marks().collect::<Vec<_>>();
        assert_eq!(marks(1), [0]);
        assert_eq!(marks(950), [0]);
        assert_eq!(marks(5_500), [0, 1, 2, 3, 4, 5]);
        assert_eq!(marks(50_500), [0, 10, 20, 30, 40]);
        assert_eq!(marks(4_000_000), [0, 900, 1800, 2700, 3600]);
        assert_eq!([1400, 119_999, 125_000].map(|ms| seconds(ms, 1)), ["1.4 s", "120.0 s", "2 min 05 s"]);
    }
}
