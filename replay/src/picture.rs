//! What each algorithm admits: the picture in the guide.

use std::time::Duration;

use ratelimit_runtime::backend::{Action, Bucket, Outcome, Request, Timestamp};
use ratelimit_runtime::{Algorithm, Limit};

use crate::chart::{Axis, COLOURS, Chart, Scale};

/// The limit of the picture: ten in ten seconds.
const COUNT: u32 = 10;
const PER: Duration = Duration::from_secs(10);

/// The same hundred calls through a fixed window, a token bucket and a sliding window, drawn over
/// time.
pub fn algorithms() -> String {
    let calls = calls();
    let mut chart = Chart::new(900.0, 330.0);
    let x = Axis { low: 0.0, high: 40.0, from: 130.0, to: 880.0, scale: Scale::Linear };
    chart.text(16.0, 22.0, "title", "The same hundred calls, by a limit of 10 in 10 s");
    for second in [0_u32, 10, 20, 30, 40] {
        let at = x.at(second.into());
        chart.line((at, 40.0), (at, 300.0), "mark");
        chart.text(at, 318.0, "middle", &format!("{second} s"));
    }
    chart.text(16.0, 66.0, "", "all calls");
    for call in &calls {
        chart.line((x.at(*call), 52.0), (x.at(*call), 70.0), "grid");
    }
    let rows = [
        (Algorithm::FixedWindow, "Twice the limit around the edge of two windows."),
        (Algorithm::TokenBucket, "A burst, then one each second: up to twice the limit in 10 s."),
        (Algorithm::SlidingWindow, "Never more than 10 in any 10 s."),
    ];
    for (position, (algorithm, what)) in rows.into_iter().enumerate() {
        let top = 110.0 + 70.0 * f64::from(u32::try_from(position).unwrap_or(0));
        let colour = COLOURS[position];
        let admitted = admitted(algorithm, &calls);
        let times: Vec<f64> =
            calls.iter().zip(&admitted).filter(|(_, admitted)| **admitted).map(|(call, _)| *call).collect();
        chart.text(16.0, top + 4.0, "", algorithm.name());
        let (most, from) = fullest(&times);
        let summary = format!("{} admitted, at most {most} in 10 s (from {from:.1} s on). {what}", times.len());
        chart.text(130.0, top + 30.0, "", &summary);
        // Admitted calls are drawn on top.
        for (call, _) in calls.iter().zip(&admitted).filter(|(_, admitted)| !**admitted) {
            chart.ring((x.at(*call), top), 2.0, "#8888");
        }
        for call in &times {
            chart.point((x.at(*call), top), 4.0, colour, &format!("admitted at {call:.2} s"));
        }
    }
    chart.svg("What a fixed window, a token bucket and a sliding window admit of the same hundred calls", true)
}

/// A hundred calls in forty seconds: a crowd around the edge of two fixed windows, one after a
/// pause, and a steady one.
fn calls() -> Vec<f64> {
    let crowd = |from: f64, gap: f64, number: u32| (0..number).map(move |call| from + gap * f64::from(call));
    crowd(7.0, 0.13, 46).chain(crowd(19.0, 0.3, 14)).chain(crowd(24.0, 0.4, 40)).collect()
}

fn admitted(algorithm: Algorithm, calls: &[f64]) -> Vec<bool> {
    let limit = Limit::new(COUNT, PER).with_algorithm(algorithm);
    let request = Request::new("", &[limit], Action::Take { cost: 1, max_wait: Duration::ZERO });
    let mut bucket = Bucket::default();
    // The start of a window: windows of ten seconds start at Unix times that are multiples of ten.
    let start = Duration::from_secs(1_700_000_000);
    let mut admits = |call: f64| {
        let at = start + Duration::from_secs_f64(call);
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        matches!(bucket.apply(&request, Timestamp::from_nanos(nanos)).outcome, Outcome::Admitted(_))
    };
    calls.iter().map(|call| admits(*call)).collect()
}

/// The most calls in any ten seconds, and the first time when such ten seconds start.
fn fullest(times: &[f64]) -> (usize, f64) {
    let within = |from: f64| times.iter().filter(|time| (from..from + PER.as_secs_f64()).contains(time)).count();
    let mut best = (0, 0.0);
    for from in times {
        if within(*from) > best.0 {
            best = (within(*from), *from);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_matches_its_text() {
        let calls = calls();
        assert_eq!(calls.len(), 100);
        let most = |algorithm| {
            let admitted = admitted(algorithm, &calls);
            let times: Vec<f64> =
                calls.iter().zip(admitted).filter(|(_, admitted)| *admitted).map(|(call, _)| *call).collect();
            fullest(&times).0
        };
        assert_eq!(most(Algorithm::FixedWindow), 20);
        assert!((11..=20).contains(&most(Algorithm::TokenBucket)));
        assert_eq!(most(Algorithm::SlidingWindow), 10);
    }
}
