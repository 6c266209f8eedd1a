//! Line and bar charts as SVG, without scripts.

use std::fmt::Write as _;

use crate::escape;

/// Colours of the candidates: the colour-blind safe palette of Okabe and Ito.
pub(crate) const COLOURS: [&str; 6] = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The style of every chart. A page includes it once; a separate file carries its own.
pub(crate) const STYLE: &str = "\
svg{font:12px system-ui,sans-serif;fill:#444}\
svg .title{font-size:14px;font-weight:600;fill:#222}\
svg .grid{stroke:#8884;stroke-width:1}\
svg .calls{fill:#8886}\
svg .mark{stroke:#888;stroke-dasharray:4 3}\
svg .line{fill:none;stroke-width:2;stroke-linejoin:round}\
svg .end{text-anchor:end}svg .middle{text-anchor:middle}\
@media(prefers-color-scheme:dark){svg{fill:#bbb}svg .title{fill:#eee}}";

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

/// A range of values along an axis of some pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) scale: Scale,
}

impl Axis {
    pub(crate) fn at(&self, value: f64) -> f64 {
        let place =
            |value: f64| if self.scale == Scale::Logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (low, high) = (place(self.low), place(self.high));
        let share = if high > low { ((place(value) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        self.from + (self.to - self.from) * share
    }

    /// Round values within the range.
    pub(crate) fn ticks(&self, most: usize) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = nice((self.high - self.low) / most.max(1) as f64);
                let first = (self.low / step).ceil();
                let last = (self.high / step + 1e-9).floor();
                if !(last - first).is_finite() || last < first {
                    return vec![self.low];
                }
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `most` steps")]
                let steps = (last - first) as usize;
                (0..=steps).map(|tick| (first + tick as f64) * step).collect()
            }
            Scale::Logarithmic => {
                let mut ticks = Vec::new();
                let decades = (self.high / self.low).log10();
                let digits: &[f64] = if decades > most as f64 / 2.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                #[expect(clippy::cast_possible_truncation, reason = "a power of ten")]
                let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
                for power in first..=last {
                    ticks.extend(digits.iter().map(|digit| digit * 10_f64.powi(power)));
                }
                ticks.retain(|tick| (self.low * 0.999..=self.high * 1.001).contains(tick));
                ticks
            }
        }
    }
}

/// The next of 1, 2, 5, 10, .. from `value` up.
pub(crate) fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * decade).find(|step| *step >= value * 0.999).unwrap_or(value)
}

/// A chart under construction.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) width: f64,
    pub(crate) height: f64,
    body: String,
}

impl Chart {
    pub(crate) fn new(width: f64, height: f64) -> Chart {
        Chart { width, height, body: String::new() }
    }

    /// The SVG element; with its own style if it is a separate file.
    pub(crate) fn svg(&self, label: &str, alone: bool) -> String {
        let style = if alone { format!("<style>{STYLE}</style>\n") } else { String::new() };
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
             aria-label=\"{label}\">\n{style}{body}</svg>\n",
            w = self.width,
            h = self.height,
            label = escape::html(label),
            body = self.body,
        )
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escape::html(text);
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>");
    }

    /// Text in a colour, for the name of a line.
    pub(crate) fn legend(&mut self, x: f64, y: f64, colour: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"4\" fill=\"{colour}\"/>",
            y - 6.0
        );
        self.text(x + 17.0, y, "", text);
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    /// A bar with a tooltip.
    pub(crate) fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, title: &str) {
        let title = escape::html(title);
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"calls\"><title>{title}</title></rect>"
        );
    }

    pub(crate) fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(self.body, "<polyline points=\"{}\" class=\"line\" stroke=\"{colour}\"/>", points.join(" "));
    }

    /// A point with a tooltip.
    pub(crate) fn point(&mut self, (x, y): (f64, f64), radius: f64, colour: &str, title: &str) {
        let title = escape::html(title);
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"><title>{title}</title></circle>"
        );
    }

    /// A ring: a call that was not admitted.
    pub(crate) fn ring(&mut self, (x, y): (f64, f64), radius: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"none\" stroke=\"{colour}\"/>"
        );
    }

    /// Grid lines at round values of `y`, with labels on their left.
    pub(crate) fn grid(&mut self, x: &Axis, y: &Axis, label: impl Fn(f64) -> String) {
        for tick in y.ticks(5) {
            let at = y.at(tick);
            self.line((x.from, at), (x.to, at), "grid");
            self.text(x.from - 6.0, at + 4.0, "end", &label(tick));
        }
    }
}

/// A number for people: `12,345`, `0.25`.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 && value.fract() == 0.0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, and shown without its sign"
        )]
        return grouped(value.abs() as u64);
    }
    let rounded = format!("{value:.2}");
    if rounded.contains('.') { rounded.trim_end_matches('0').trim_end_matches('.').to_owned() } else { rounded }
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 %`, with enough decimals for a small share.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 10.0 {
        format!("{percent:.1} %")
    } else if percent >= 0.1 {
        format!("{percent:.2} %")
    } else {
        format!("{percent:.4} %")
    }
}

/// `250 ms`, `12.3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn time_span(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a span of time is not negative")]
    let whole = seconds.round() as u64;
    match seconds {
        0.0 => "0 s".to_owned(),
        ..0.001 => format!("{} µs", number(seconds * 1e6)),
        ..1.0 => format!("{} ms", number((seconds * 1e4).round() / 10.0)),
        ..60.0 => format!("{} s", number((seconds * 10.0).round() / 10.0)),
        ..3_600.0 => two_units(whole / 60, "min", whole % 60, "s"),
        ..86_400.0 => two_units(whole / 3_600, "h", whole % 3_600 / 60, "min"),
        _ => two_units(whole / 86_400, "d", whole % 86_400 / 3_600, "h"),
    }
}

fn two_units(large: u64, unit: &str, small: u64, sub_unit: &str) -> String {
    let large = grouped(large);
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {sub_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!([grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [percent(0.0), percent(0.5), percent(0.01234), percent(0.0001)],
            ["0.0 %", "50.0 %", "1.23 %", "0.0100 %"]
        );
        assert_eq!([time_span(0.25), time_span(12.34), time_span(250.0)], ["250 ms", "12.3 s", "4 min 10 s"]);
        assert_eq!([time_span(7_500.0), time_span(2e5), time_span(60.0)], ["2 h 5 min", "2 d 7 h", "1 min"]);
        assert_eq!([number(1.5), number(2.0), number(10_000.0), number(100.0)], ["1.5", "2", "10,000", "100"]);
    }

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let axis = |low, high, scale| Axis { low, high, from: 0.0, to: 100.0, scale };
        assert_eq!(axis(0.0, 10.0, Scale::Linear).ticks(5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(axis(0.0, 0.0, Scale::Linear).ticks(5), [0.0]);
        assert_eq!(axis(10.0, 1_000.0, Scale::Logarithmic).ticks(6), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0]);
        assert!((axis(10.0, 1_000.0, Scale::Logarithmic).at(100.0) - 50.0).abs() < 1e-9);
    }
}
