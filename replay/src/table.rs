//! The report as a table in a terminal.

use std::fmt::Write as _;

use crate::chart::{grouped, percent, time_span};
use crate::escape::terminal;
use crate::page::{log_line, notes, overview, rows};
use crate::report::Report;

pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for log in &report.logs {
        let _ = writeln!(text, "{}", terminal(&log_line(log)));
        for line in &log.first_unparsed {
            let _ = writeln!(text, "  line {}: {}: {}", line.line, line.reason, terminal(&shortened(&line.text, 100)));
        }
        let unseen = log.unparsed - log.first_unparsed.len() as u64;
        if unseen > 0 {
            let _ = writeln!(text, "  and {} more", grouped(unseen));
        }
    }
    let _ = writeln!(text, "{}", terminal(&overview(report)));
    for note in notes(report) {
        let _ = writeln!(text, "{}", terminal(&note));
    }
    if !report.candidates.is_empty() {
        text.push('\n');
        candidates(&mut text, report);
        for candidate in report.candidates.iter().filter(|candidate| !candidate.most_denied.is_empty()) {
            let _ = writeln!(text, "\nMost denied by {}", candidate.limit);
            let mut lines = vec![["client", "denied", "calls", "longest time denied"].map(str::to_owned).to_vec()];
            lines.extend(candidate.most_denied.iter().map(|client| {
                vec![
                    shortened(&terminal(&client.client), 60),
                    grouped(client.denied),
                    grouped(client.calls),
                    time_span(client.longest_denial_seconds),
                ]
            }));
            columns(&mut text, &lines);
        }
    }
    if !report.suggestions.is_empty() {
        text.push_str("\nSuggested: the smallest round limits\n");
        let mut lines = vec![["algorithm", "limit", "clients denied", "share"].map(str::to_owned).to_vec()];
        lines.extend(report.suggestions.iter().map(|suggestion| {
            vec![
                suggestion.algorithm.to_owned(),
                suggestion.limit.clone().unwrap_or_else(|| "none".to_owned()),
                grouped(suggestion.clients_denied),
                percent(suggestion.share),
            ]
        }));
        columns(&mut text, &lines);
    }
    text
}

fn candidates(text: &mut String, report: &Report) {
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(report.candidates.iter().map(|candidate| candidate.limit.clone()));
    for (name, is_sub, texts) in rows(report) {
        let mut line = vec![if is_sub { format!("  {name}") } else { name }];
        line.extend(texts);
        lines.push(line);
    }
    columns(text, &lines);
}

/// Aligns the first column left, the others right.
fn columns(text: &mut String, lines: &[Vec<String>]) {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..).map_while(width).collect();
    for line in lines {
        let mut written = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(written, "{cell:<width$}") } else { write!(written, "  {cell:>width$}") };
        }
        let _ = writeln!(text, "{}", written.trim_end());
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}
