//! The curves: the share of calls that need the server, and how much is admitted.

use crate::chart::{Axis, COLOURS, Chart, Scale, percent};
use crate::fleet::Choice;
use crate::simulation::{RATE, RATES, Simulated, limits, usual};
use crate::traffic::EXPONENTS;

const WIDTH: f64 = 350.0;
const HEIGHT: f64 = 200.0;
/// Beside the limits' colours.
const OF_CHOICES: [&str; 2] = ["#56b4e9", "#888"];

struct Panel {
    x: Axis,
    y: Axis,
}

pub(crate) fn draw(simulated: &Simulated) -> String {
    let mut chart = Chart::new(900.0, 650.0);
    chart.text(16.0, 22.0, "title", "A fleet of 100 processes, 10,000,000 keys by Zipf's law");
    let savers = [Choice::DenialCache, Choice::Leases];
    for (choice, left) in savers.into_iter().zip([60.0, 500.0]) {
        let title = format!("Calls that ask the server, {}, by exponent", choice.name());
        let panel = Panel::new(&mut chart, (left, 80.0), (0.0, 1.0), &title);
        panel.exponents(&mut chart);
        for ((name, limit), colour) in limits().into_iter().zip(COLOURS) {
            panel
                .curve(&mut chart, &EXPONENTS, colour, name, |exponent| simulated.asked(limit, choice, exponent, RATE));
        }
    }
    for (((name, _), colour), left) in limits().into_iter().zip(COLOURS).zip([60.0, 200.0, 340.0, 560.0, 720.0]) {
        chart.legend(left, 322.0, colour, &plain(name));
    }
    let mut panel = Panel::new(
        &mut chart,
        (60.0, 380.0),
        (0.0, 1.0),
        "Calls that ask, 100 per 1 s, exponent 1.0, by calls a second",
    );
    panel.x = Axis { low: RATES[0], high: RATES[2], scale: Scale::Logarithmic, ..panel.x };
    for (rate, label) in RATES.into_iter().zip(["5,000", "50,000", "500,000"]) {
        chart.text(panel.x.at(rate), panel.y.from + 18.0, "middle", label);
    }
    for (choice, colour) in savers.into_iter().zip(OF_CHOICES) {
        let share = |rate: f64| simulated.asked(usual(), choice, 1.0, rate);
        panel.curve(&mut chart, &RATES, colour, choice.name(), share);
    }
    for ((choice, colour), left) in savers.into_iter().zip(OF_CHOICES).zip([60.0, 190.0]) {
        chart.legend(left, 622.0, colour, choice.name());
    }
    let title = "Admitted, of what a full log admits, 100 per 1 s, by exponent";
    let panel = Panel::new(&mut chart, (500.0, 380.0), (0.0, 2.5), title);
    panel.exponents(&mut chart);
    let shown = [Choice::Exact, Choice::Share, Choice::Fallback];
    for (choice, colour) in shown.into_iter().zip(COLOURS) {
        let share = |exponent: f64| simulated.admitted(usual(), choice, exponent);
        panel.curve(&mut chart, &EXPONENTS, colour, choice.name(), share);
    }
    for ((choice, colour), place) in shown.into_iter().zip(COLOURS).zip(0..) {
        let name = if choice == Choice::Exact { "every call asks, denial cache or leases" } else { choice.name() };
        chart.legend(510.0, 396.0 + 16.0 * f64::from(place), colour, name);
    }
    chart.svg(
        "Calls that ask the server, and what is admitted, with a denial cache, with leases and without a server",
        true,
    )
}

impl Panel {
    /// A panel with its left upper corner, its range of shares and its title.
    fn new(chart: &mut Chart, (left, top): (f64, f64), (low, high): (f64, f64), title: &str) -> Panel {
        let [first, .., last] = EXPONENTS;
        let x = Axis { low: first, high: last, from: left, to: left + WIDTH, scale: Scale::Linear };
        let y = Axis { low, high, from: top + HEIGHT, to: top, scale: Scale::Linear };
        chart.text(left, top - 18.0, "", title);
        chart.grid(&x, &y, |share| format!("{:.0} %", share * 100.0));
        Panel { x, y }
    }

    fn exponents(&self, chart: &mut Chart) {
        for exponent in EXPONENTS {
            chart.text(self.x.at(exponent), self.y.from + 18.0, "middle", &format!("{exponent:.1}"));
        }
    }

    fn curve(&self, chart: &mut Chart, places: &[f64], colour: &str, name: &str, share: impl Fn(f64) -> f64) {
        let points: Vec<((f64, f64), f64)> =
            places.iter().map(|place| ((self.x.at(*place), self.y.at(share(*place))), share(*place))).collect();
        chart.path(&points.iter().map(|(at, _)| *at).collect::<Vec<_>>(), colour);
        for (at, share) in points {
            chart.point(at, 3.0, colour, &format!("{}: {}", plain(name), percent(share)));
        }
    }
}

/// A limit's name without the quotes of Markdown.
fn plain(name: &str) -> String {
    name.replace('`', "")
}
