//! The report as a self-contained HTML page: no scripts, fonts or pictures from elsewhere.

use std::fmt::Write as _;

use crate::chart::{Axis, COLOURS, Chart, STYLE, Scale, grouped, nice, number, percent, time_span};
use crate::escape::html;
use crate::report::{CandidateReport, LogReport, Report};

const PAGE_STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}\
table{border-collapse:collapse;margin:.8rem 0}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #8884}\
th:first-child,td:first-child{text-align:left;padding-left:0}thead th{border-bottom:2px solid #8888}\
tr.sub td:first-child{padding-left:1.2rem;color:#777}td.client{word-break:break-all}\
figure{margin:1rem 0;overflow-x:auto}p.note{color:#777}code{font-size:.92em}\
svg{max-width:100%;height:auto}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}}";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut body = String::new();
    body.push_str("<h1>What each limit would have done</h1>\n");
    let _ = writeln!(body, "<p>{}</p>", html(&overview(report)));
    for log in &report.logs {
        log_section(&mut body, log);
    }
    for note in notes(report) {
        let _ = writeln!(body, "<p class=\"note\">{}</p>", html(&note));
    }
    if !report.candidates.is_empty() {
        let _ = writeln!(body, "<h2>Candidates</h2>\n{}", candidates(report));
    }
    figure(&mut body, &over_time(report).svg("Calls and denials over time", false));
    if !report.candidates.is_empty() {
        if report.candidates.iter().any(|candidate| !candidate.curve.is_empty()) {
            body.push_str(
                "<h2>Moving the count</h2>\n<p>The share of clients that a limit would ever deny, by its count.",
            );
            body.push_str(" The dashed line is the count that was tried.</p>\n");
            for (position, candidate) in report.candidates.iter().enumerate() {
                figure(
                    &mut body,
                    &curve(candidate, position).svg(&format!("Share denied by {}", candidate.limit), false),
                );
            }
        }
        let unit = unit(report);
        let _ = writeln!(
            body,
            "<h2>Demand</h2>\n<p>How many {unit} a client made in one period, over all clients and periods.</p>"
        );
        for (position, candidate) in distinct_periods(report) {
            figure(&mut body, &demand(candidate, position, unit).svg(&format!("{unit} a client and period"), false));
        }
        for candidate in report.candidates.iter().filter(|candidate| !candidate.most_denied.is_empty()) {
            let _ = writeln!(
                body,
                "<h2>Most denied by <code>{}</code></h2>\n{}",
                html(&candidate.limit),
                most_denied(candidate)
            );
        }
    }
    if !report.suggestions.is_empty() {
        let _ = writeln!(body, "<h2>Suggested</h2>\n{}", suggestions(report));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>What each limit would have done</title>\n<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// The picture of a report as a separate file: calls and denials over time beside the curves over
/// the count.
pub(crate) fn summary(report: &Report) -> String {
    let mut chart = Chart::new(900.0, 300.0);
    draw_over_time(&mut chart, report, 50.0, 480.0, 300.0);
    let x = Axis { from: 560.0, to: 880.0, ..curve_axis(report.candidates.iter()) };
    let y =
        Axis { low: 0.0, high: highest_share(report.candidates.iter()), from: 250.0, to: 46.0, scale: Scale::Linear };
    chart.text(520.0, 20.0, "title", "Clients ever denied, by count");
    chart.grid(&x, &y, |share| format!("{} %", number(share * 100.0)));
    for tick in x.ticks(5) {
        chart.text(x.at(tick), 270.0, "middle", &number(tick));
    }
    for (position, candidate) in report.candidates.iter().enumerate() {
        draw_curve(&mut chart, candidate, &x, &y, COLOURS[position % COLOURS.len()]);
    }
    chart.svg("Calls and denials over time, and the share of clients denied by the count of the limit", true)
}

/// A sentence about the input.
pub(crate) fn overview(report: &Report) -> String {
    let clients = match &report.key[..] {
        [] => "counted together".to_owned(),
        key => format!("of {} (by {})", counted(report.clients, "client"), key.join(" and ")),
    };
    format!("{} {clients}, from {} to {}.", counted(report.calls, "call"), report.from, report.to)
}

/// `1 call`, `2 calls`.
fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A sentence about a log.
pub(crate) fn log_line(log: &LogReport) -> String {
    let compression = log.compression.map_or_else(String::new, |compression| format!(", {compression}"));
    let (lines, calls) = (counted(log.lines, "line"), counted(log.calls, "call"));
    let mut line = format!("{}: {}{compression}, {lines}, {calls}", log.name, log.format);
    for (count, what) in [
        (log.headers, "of headers"),
        (log.blank, "blank"),
        (log.unparsed, "not parsed"),
        (log.longer_than_64_kib, "longer than 64 KiB and skipped"),
    ] {
        if count > 0 {
            let _ = write!(line, ", {} {what}", grouped(count));
        }
    }
    if let Some(error) = &log.error {
        let _ = write!(line, "; it {error}");
    }
    line
}

/// Notes about order, costs and waits.
pub(crate) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let order = &report.order;
    let window = time_span(order.window_seconds);
    if order.out_of_order > 0 {
        let calls = counted(order.out_of_order, "call");
        notes.push(format!("Out of order: {calls}, sorted within {window}."));
    }
    if order.too_late > 0 {
        let calls = counted(order.too_late, "call");
        notes.push(format!(
            "Further out of order than that: {calls}, decided {window} before the latest one. Try a longer `--window`."
        ));
    }
    if let Some(cost) = &report.cost {
        notes.push(format!("A call takes as many permits as its column `{cost}` says."));
    }
    if report.odd_costs > 0 {
        notes.push(format!("{} costs were no number or too large.", grouped(report.odd_costs)));
    }
    if let Some(wait) = report.max_wait_seconds {
        notes.push(format!("Calls wait for their permits, at most {}.", time_span(wait)));
    }
    notes
}

/// The unit of limits: calls or permits.
pub(crate) fn unit(report: &Report) -> &'static str {
    if report.cost.is_some() { "permits" } else { "calls" }
}

/// The rows that compare candidates: a name, whether it belongs to the row above, and a text for
/// each candidate.
pub(crate) fn rows(report: &Report) -> Vec<(String, bool, Vec<String>)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, is_sub: bool, text: &dyn Fn(&CandidateReport) -> String| {
        rows.push((name.to_owned(), is_sub, report.candidates.iter().map(text).collect()));
    };
    row("calls denied", false, &|of| grouped(of.denied));
    row("share", true, &|of| percent(of.denied_share));
    row("clients ever denied", false, &|of| grouped(of.clients_denied));
    row("share", true, &|of| percent(of.clients_denied_share));
    row("longest time denied", false, &|of| {
        if of.clients_denied == 0 { "-".to_owned() } else { time_span(of.longest_denial_seconds) }
    });
    if report.max_wait_seconds.is_some() {
        let wait = |text: fn(&crate::report::Waits) -> String| {
            move |of: &CandidateReport| of.waits.as_ref().map_or_else(String::new, text)
        };
        row("calls that wait", false, &wait(|waits| grouped(waits.calls)));
        row("share", true, &wait(|waits| percent(waits.share)));
        row("median wait", true, &wait(|waits| time_span(waits.median_seconds)));
        row("99 % wait at most", true, &wait(|waits| time_span(waits.p99_seconds)));
        row("longest wait", true, &wait(|waits| time_span(waits.longest_seconds)));
    }
    row("fewest permits left, of clients never denied", false, &|of| {
        if of.least_remaining.is_empty() { "-".to_owned() } else { String::new() }
    });
    for position in 0..5 {
        let quantile = |of: &CandidateReport| of.least_remaining.get(position).copied();
        if let Some(share) = report.candidates.iter().find_map(quantile).map(|quantile| quantile.share) {
            let name = format!("{} of them, at most", percent_short(share));
            row(&name, true, &|of| quantile(of).map_or_else(|| "-".to_owned(), |quantile| grouped(quantile.value)));
        }
    }
    row(&format!("{} of a client in a period", unit(report)), false, &|of| {
        format!("(period {})", time_span(of.demand.period_seconds))
    });
    for position in 0..5 {
        let share =
            report.candidates.first().and_then(|of| of.demand.quantiles.get(position)).map_or(0.0, |at| at.share);
        let name = format!("{} of periods, at most", percent_short(share));
        row(&name, true, &|of| of.demand.quantiles.get(position).map_or_else(String::new, |at| grouped(at.value)));
    }
    row("most", true, &|of| grouped(of.demand.largest));
    row("peak of keys in memory", false, &|of| grouped(of.peak_keys));
    rows
}

fn percent_short(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

fn figure(body: &mut String, svg: &str) {
    let _ = writeln!(body, "<figure>{svg}</figure>");
}

fn log_section(body: &mut String, log: &LogReport) {
    let _ = writeln!(body, "<p>{}</p>", html(&log_line(log)));
    if !log.first_unparsed.is_empty() {
        body.push_str("<table><thead><tr><th>line</th><th>reason</th><th>text</th></tr></thead>\n");
        for line in &log.first_unparsed {
            let _ = writeln!(
                body,
                "<tr><td>{}</td><td>{}</td><td class=\"client\">{}</td></tr>",
                line.line,
                html(line.reason),
                html(&line.text)
            );
        }
        body.push_str("</table>\n");
    }
}

fn candidates(report: &Report) -> String {
    let mut table = "<table id=\"candidates\"><thead><tr><th></th>".to_owned();
    for candidate in &report.candidates {
        let _ = write!(table, "<th><code>{}</code></th>", html(&candidate.limit));
    }
    table.push_str("</tr></thead>\n");
    for (name, is_sub, texts) in rows(report) {
        let class = if is_sub { " class=\"sub\"" } else { "" };
        let _ = write!(table, "<tr{class}><td>{}</td>", html(&name));
        for text in texts {
            let _ = write!(table, "<td>{}</td>", html(&text));
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table>");
    table
}

fn most_denied(candidate: &CandidateReport) -> String {
    let mut table =
        "<table><thead><tr><th>client</th><th>denied</th><th>calls</th><th>longest time denied</th></tr></thead>\n"
            .to_owned();
    for client in &candidate.most_denied {
        let _ = writeln!(
            table,
            "<tr><td class=\"client\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            html(&client.client),
            grouped(client.denied),
            grouped(client.calls),
            time_span(client.longest_denial_seconds)
        );
    }
    table.push_str("</table>");
    table
}

fn suggestions(report: &Report) -> String {
    let mut table =
        "<table id=\"suggestions\"><thead><tr><th>algorithm</th><th>smallest round limit</th><th>clients denied</th><th>share</th></tr></thead>\n"
            .to_owned();
    for suggestion in &report.suggestions {
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            suggestion.algorithm,
            html(suggestion.limit.as_deref().unwrap_or("none")),
            grouped(suggestion.clients_denied),
            percent(suggestion.share)
        );
    }
    table.push_str("</table>");
    table
}

fn over_time(report: &Report) -> Chart {
    let mut chart = Chart::new(960.0, 300.0);
    draw_over_time(&mut chart, report, 60.0, 940.0, 300.0);
    chart
}

/// Calls as bars, each candidate's denials as a line.
fn draw_over_time(chart: &mut Chart, report: &Report, left: f64, right: f64, height: f64) {
    let timeline = &report.timeline;
    let steps = timeline.calls.len();
    let end = timeline.step_seconds * steps as f64;
    let most = timeline.calls.iter().copied().max().unwrap_or(1).max(1) as f64;
    let x = Axis { low: 0.0, high: end, from: left, to: right, scale: Scale::Linear };
    let legend = legend(report, left, right);
    let top = 46.0 + 16.0 * legend.last().map_or(0.0, |((_, row), _)| *row);
    let y = Axis { low: 0.0, high: nice(most), from: height - 50.0, to: top, scale: Scale::Linear };
    let title = format!("Calls and denials, each {}", time_span(timeline.step_seconds));
    chart.text(left - 40.0, 20.0, "title", &title);
    chart.grid(&x, &y, number);
    let width = (x.at(timeline.step_seconds) - x.from - 0.5).max(0.5);
    for (step, calls) in timeline.calls.iter().enumerate().filter(|(_, calls)| **calls > 0) {
        let at = timeline.step_seconds * step as f64;
        let top = y.at(*calls as f64);
        chart.bar(x.at(at), top, width, y.from - top, &format!("{} calls", grouped(*calls)));
    }
    for (position, candidate) in report.candidates.iter().enumerate() {
        let colour = COLOURS[position % COLOURS.len()];
        let middle = |step: usize| x.at(timeline.step_seconds * (step as f64 + 0.5));
        let denied = candidate.denied_over_time.iter().enumerate();
        let points: Vec<(f64, f64)> = denied.map(|(step, denied)| (middle(step), y.at(*denied as f64))).collect();
        chart.path(&points, colour);
    }
    for (position, ((at, row), text)) in legend.into_iter().enumerate() {
        chart.legend(at, 38.0 + 16.0 * row, COLOURS[position % COLOURS.len()], &text);
    }
    for (share, class) in [(0.0, ""), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")] {
        chart.text(x.from + (x.to - x.from) * share, height - 30.0, class, &clock(timeline.start_nanos, end, share));
    }
}

/// The position of each candidate's name: the distance from the left, and the row.
fn legend(report: &Report, left: f64, right: f64) -> Vec<((f64, f64), String)> {
    let (mut at, mut row) = (left, 0.0);
    let mut places = Vec::new();
    for candidate in &report.candidates {
        let text = format!("denied by {}", candidate.limit);
        let width = 30.0 + 6.6 * text.chars().count() as f64;
        if at > left && at + width > right {
            (at, row) = (left, row + 1.0);
        }
        places.push(((at, row), text));
        at += width;
    }
    places
}

/// The time at a share of a span that starts at `start`, as precise as the span needs.
fn clock(start: u64, seconds: f64, share: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "nanoseconds of a span")]
    let at = i128::from(start) + (seconds * share * 1e9) as i128;
    let form = if seconds < 60.0 {
        "%H:%M:%S%.1f"
    } else if seconds < 7_200.0 {
        "%H:%M:%S"
    } else if seconds < 172_800.0 {
        "%a %H:%M"
    } else {
        "%Y-%m-%d"
    };
    jiff::Timestamp::from_nanosecond(at).map_or_else(|_| String::new(), |time| time.strftime(form).to_string())
}

fn curve_axis<'a>(candidates: impl Iterator<Item = &'a CandidateReport> + Clone) -> Axis {
    let counts = candidates.flat_map(|candidate| &candidate.curve).map(|point| f64::from(point.count));
    let low = counts.clone().fold(f64::INFINITY, f64::min);
    let high = counts.fold(1.0, f64::max);
    Axis { low: if low.is_finite() { low } else { 1.0 }, high, from: 60.0, to: 700.0, scale: Scale::Logarithmic }
}

fn highest_share<'a>(candidates: impl Iterator<Item = &'a CandidateReport>) -> f64 {
    let highest = candidates.flat_map(|candidate| &candidate.curve).map(|point| point.share).fold(0.0, f64::max);
    if highest > 0.0 { nice(highest).min(1.0) } else { 0.01 }
}

fn curve(candidate: &CandidateReport, position: usize) -> Chart {
    let mut chart = Chart::new(720.0, 260.0);
    let x = curve_axis(std::iter::once(candidate));
    let y =
        Axis { low: 0.0, high: highest_share(std::iter::once(candidate)), from: 220.0, to: 36.0, scale: Scale::Linear };
    chart.text(20.0, 20.0, "title", &format!("Clients ever denied by {}, if its count were another", candidate.limit));
    chart.grid(&x, &y, |share| format!("{} %", number(share * 100.0)));
    for tick in x.ticks(9) {
        chart.text(x.at(tick), 240.0, "middle", &number(tick));
    }
    draw_curve(&mut chart, candidate, &x, &y, COLOURS[position % COLOURS.len()]);
    chart
}

fn draw_curve(chart: &mut Chart, candidate: &CandidateReport, x: &Axis, y: &Axis, colour: &str) {
    if let Some(count) = candidate.limit.split('/').next().and_then(|count| count.parse::<f64>().ok()) {
        chart.line((x.at(count), y.from), (x.at(count), y.to), "mark");
    }
    let place = |point: &crate::report::CurvePoint| (x.at(f64::from(point.count)), y.at(point.share));
    let points: Vec<(f64, f64)> = candidate.curve.iter().map(place).collect();
    chart.path(&points, colour);
    for (point, at) in candidate.curve.iter().zip(points) {
        let title = format!(
            "{}: {} clients, {}",
            grouped(point.count.into()),
            grouped(point.clients_denied),
            percent(point.share)
        );
        chart.point(at, 2.5, colour, &title);
    }
}

/// The first candidate of each period, with its position.
fn distinct_periods(report: &Report) -> Vec<(usize, &CandidateReport)> {
    let mut found: Vec<(usize, &CandidateReport)> = Vec::new();
    for (position, candidate) in report.candidates.iter().enumerate() {
        let is_new = |(_, of): &(usize, &CandidateReport)| {
            of.demand.period_seconds.to_bits() != candidate.demand.period_seconds.to_bits()
        };
        if found.iter().all(is_new) {
            found.push((position, candidate));
        }
    }
    found
}

fn demand(candidate: &CandidateReport, position: usize, unit: &str) -> Chart {
    let mut chart = Chart::new(720.0, 260.0);
    let demand = &candidate.demand;
    let most = demand.histogram.iter().map(|range| range.count).max().unwrap_or(1).max(1) as f64;
    let high = (demand.largest.max(1) + 1) as f64;
    let x = Axis { low: 1.0, high: high.max(2.0), from: 60.0, to: 700.0, scale: Scale::Logarithmic };
    // Raised above the ground so that it is visible.
    let y = Axis { low: 0.5, high: most.max(2.0), from: 220.0, to: 36.0, scale: Scale::Logarithmic };
    let period = time_span(demand.period_seconds);
    chart.text(20.0, 20.0, "title", &format!("Clients and periods of {period}, by their number of {unit}"));
    chart.grid(&x, &y, number);
    for tick in x.ticks(9) {
        chart.text(x.at(tick), 240.0, "middle", &number(tick));
    }
    for range in demand.histogram.iter().filter(|range| range.to > 0) {
        let (from, to) = (x.at(range.from.max(1) as f64), x.at((range.to + 1) as f64));
        let top = y.at(range.count as f64);
        let values = if range.from == range.to {
            grouped(range.from)
        } else {
            format!("{} to {}", grouped(range.from), grouped(range.to))
        };
        let title = format!("{values} {unit}: {} times", grouped(range.count));
        chart.bar(from, top, (to - from - 0.5).max(0.5), y.from - top, &title);
    }
    if let Some(count) =
        candidate.limit.split('/').next().and_then(|count| count.parse::<f64>().ok()).filter(|count| *count <= high)
    {
        let at = x.at(count);
        chart.line((at, y.from), (at, y.to), "mark");
        chart.legend(at.min(560.0) + 4.0, 46.0, COLOURS[position % COLOURS.len()], &candidate.limit);
    }
    chart
}
