//! Replays an access log through candidate rate limits, and shows which clients each would have
//! denied.
//!
//! The decisions are the product's own: [`Bucket`](ratelimit_runtime::backend::Bucket) decides each
//! call at the time in the log. Each log is read on its own thread (`input`), its calls are sorted
//! (`order`) and decided in batches (`replay`): by each candidate (`decide`), and for the curves
//! over `count` by up to 64 counts at once (`ladder`). The result is one `report`, shown as a
//! table, as JSON and as a page.

#![expect(clippy::cast_precision_loss, reason = "shares and seconds are for reading")]

mod chart;
mod clients;
mod decide;
mod escape;
mod format;
mod input;
mod key;
mod ladder;
mod limit;
mod measure;
mod options;
mod order;
mod page;
mod picture;
mod replay;
mod report;
mod table;
mod time;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};

use input::Progress;
use options::Options;
use report::Report;

pub use picture::algorithms;

/// The command: reads the process's arguments and writes the requested outputs.
pub fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("replay: {}", escape::terminal(&message));
            ExitCode::FAILURE
        }
    }
}

/// Runs a replay with command line arguments, without the program's name. Returns the curve that
/// the README shows.
pub fn picture_of(arguments: &[&str]) -> Result<String, String> {
    let options = Options::try_parse_from(["replay"].iter().chain(arguments)).map_err(|error| error.to_string())?;
    let report = replay::replay(&options, &Arc::default())?;
    Ok(page::summary(&report))
}

fn run(options: &Options) -> Result<(), String> {
    if options.limits.is_empty() && options.suggest.is_none() {
        return Err("say what to try: `--limit 100/1m`, as often as you like, or `--suggest 0.1%`".to_owned());
    }
    if options.json == options.html && options.html.as_deref() == Some(Path::new("-")) {
        return Err("standard output is for one report: `--json` or `--html`".to_owned());
    }
    let report = with_progress(|progress| replay::replay(options, progress))?;
    let mut json = String::new();
    if options.json.is_some() {
        json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n";
    }
    let html = if options.html.is_some() { page::page(&report) } else { String::new() };
    let (mut files, mut on_stdout) = (Vec::new(), None);
    for (path, text) in [(&options.json, json), (&options.html, html)] {
        match path {
            Some(path) if path == Path::new("-") => on_stdout = Some(text),
            Some(path) => files.push((path, text)),
            None => {}
        }
    }
    for (path, text) in files {
        fs::write(path, text).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    // Replaces the table, so that standard output contains nothing else.
    print(&on_stdout.unwrap_or_else(|| table::table(&report)))?;
    failed_logs(&report)
}

/// A log that could not be read to its end is a failure, but the calls read so far are reported.
fn failed_logs(report: &Report) -> Result<(), String> {
    let failed = report.logs.iter().find_map(|log| Some(format!("{} {}", log.name, log.error.as_ref()?)));
    failed.map_or(Ok(()), Err)
}

/// Prints. A reader that closes early (`| head`) is not an error.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("the report cannot be printed: {error}"))
        }
        _ => Ok(()),
    }
}

/// Shows a progress bar if standard error is a terminal.
fn with_progress<T>(work: impl FnOnce(&Arc<Progress>) -> T) -> T {
    let progress = Arc::new(Progress::default());
    if !io::stderr().is_terminal() {
        return work(&progress);
    }
    let (done, is_done) = mpsc::channel::<()>();
    let shown = Arc::clone(&progress);
    let bar = thread::spawn(move || {
        // Logs are open by now. Quick ones need no bar.
        if is_done.recv_timeout(Duration::from_millis(300)) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        let bar = ProgressBar::no_length();
        // The size of a pipe's input is unknown.
        let style = match shown.total.load(Ordering::Relaxed) {
            0 => "{spinner} {bytes}, {bytes_per_sec}",
            _ => "{bar:40} {percent:>3} %  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("##-"));
        }
        while is_done.recv_timeout(Duration::from_millis(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let read = shown.read.load(Ordering::Relaxed);
            bar.set_length(shown.total.load(Ordering::Relaxed).max(read));
            bar.set_position(read);
        }
        bar.finish_and_clear();
    });
    let result = work(&progress);
    drop(done);
    let _ = bar.join();
    result
}
