//! Small charts over time. The picture stretches with the page; the words around it are text of the page, which does not.

use jiff::Timestamp;
use maud::{Markup, html};

use crate::driver::summary::number;

/// Of the pictures' own coordinates: they are stretched to what room there is.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;

/// A value at a moment, with what a pointer that rests on it says.
pub struct Point {
    pub at: Timestamp,
    pub value: i64,
    pub title: String,
}

/// A line through all points, from the least to the most; `title` says what it is of.
pub fn line(title: &str, points: &[Point]) -> Markup {
    let (least, most) = ends(points);
    let place = |point: &Point| {
        let share = if most == least { 0.5 } else { (point.value - least) as f64 / (most - least) as f64 };
        (x(points, point.at), 6.0 + (HEIGHT - 12.0) * (1.0 - share))
    };
    let path = match points {
        // A line of no length with round ends: a dot.
        [point] => format!("M{0:.1} {1:.1}h0", WIDTH / 2.0, place(point).1),
        _ => points
            .iter()
            .enumerate()
            .map(|(i, point)| {
                let (x, y) = place(point);
                format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' })
            })
            .collect(),
    };
    let area = format!("{path}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z");
    frame(
        title,
        points,
        (least, most),
        html! {
            @if points.len() > 1 { path.area d=(area) {} }
            path.line.dot[points.len() == 1] d=(path) vector-effect="non-scaling-stroke" {}
        },
    )
}

/// A bar for each point, from zero; `kind` is its class.
pub fn bars(title: &str, kind: &str, points: &[Point]) -> Markup {
    let most = ends(points).1;
    let width = (500.0 / points.len().max(1) as f64).clamp(1.5, 6.0);
    frame(
        title,
        points,
        (0, most),
        html! {
            @for point in points.iter().filter(|point| point.value > 0) {
                @let x = if points.len() == 1 { WIDTH / 2.0 } else { 10.0 + x(points, point.at) * (WIDTH - 20.0) / WIDTH };
                path class={ "bar " (kind) } stroke-width=(format!("{width:.1}")) vector-effect="non-scaling-stroke"
                    d=(format!("M{x:.1} {HEIGHT}V{:.1}", HEIGHT - (HEIGHT - 4.0) * point.value as f64 / most as f64)) {
                    title { (point.title) }
                }
            }
        },
    )
}

/// The picture with its axes: the values' ends at the left, the first and the last day below.
fn frame(title: &str, points: &[Point], (least, most): (i64, i64), picture: Markup) -> Markup {
    let last = points.last().map_or(0, |point| point.value);
    let (first_day, last_day) = days(points);
    let count = |n: i64| number(n.unsigned_abs());
    let label = format!("{title}: {} points from {first_day} to {last_day}, the last is {}", points.len(), count(last));
    html! {
        div.chart {
            div.y aria-hidden="true" {
                span { (count(most)) }
                @if least != most { span { (count(least)) } }
            }
            svg role="img" aria-label=(label) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                title { (label) }
                (picture)
            }
            div.x aria-hidden="true" {
                span { (first_day) }
                @if last_day != first_day { span { (last_day) } }
            }
        }
    }
}

/// The first and the last moment: their days, or, on one day, their times.
fn days(points: &[Point]) -> (String, String) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Default::default() };
    let form = |form: &str| (first.at.strftime(form).to_string(), last.at.strftime(form).to_string());
    let (first_day, last_day) = form("%-d %b %Y");
    if first_day != last_day {
        return (first_day, last_day);
    }
    let (from, until) = form("%H:%M");
    let day = first.at.strftime("%-d %b");
    if from == until { (format!("{day}, {from}"), format!("{day}, {from}")) } else { (format!("{day}, {from}"), until) }
}

fn x(points: &[Point], at: Timestamp) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    let all = (last.at.as_millisecond() - first.at.as_millisecond()).max(1);
    WIDTH * (at.as_millisecond() - first.at.as_millisecond()) as f64 / all as f64
}

fn ends(points: &[Point]) -> (i64, i64) {
    let values = || points.iter().map(|point| point.value);
    (values().min().unwrap_or(0), values().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[(i64, i64)]) -> Vec<Point> {
        let point = |&(at, value): &(i64, i64)| Point {
            at: Timestamp::from_second(at).unwrap(),
            value,
            title: format!("<b>{value}</b>"),
        };
        values.iter().map(point).collect()
    }

    #[test]
    fn a_chart_has_its_ends_and_its_days() {
        let chart = line("<rows>", &points(&[(0, 10), (86_400, 1030), (172_800, 1000)])).into_string();
        assert!(chart.contains("&lt;rows&gt;: 3 points from 1 Jan 1970 to 3 Jan 1970, the last is 1,000"), "{chart}");
        assert!(chart.contains("<span>1,030</span><span>10</span>"), "{chart}");
        assert!(chart.contains("M0.0 94.0L500.0 6.0L1000.0 8.6"), "{chart}");
        let one = line("r", &points(&[(60, 7)])).into_string();
        assert!(one.contains("M500.0 50.0h0") && one.contains("<span>7</span></div>"), "{one}");
        assert!(one.contains("<span>1 Jan, 00:01</span></div>"), "{one}");
        let none = bars("b", "bad", &[]).into_string();
        assert!(none.contains("b: 0 points"), "{none}");
    }

    #[test]
    fn a_bar_tells_its_value_and_nothing_has_none() {
        let chart = bars("b", "bad", &points(&[(0, 0), (60, 5), (120, 10)])).into_string();
        assert_eq!(chart.matches("<path").count(), 2, "{chart}");
        assert!(chart.contains("M500.0 100V52.0") && chart.contains("&lt;b&gt;5&lt;/b&gt;"), "{chart}");
    }
}
