//! Writes a synthetic combined log to standard output, for measuring: `cargo run --release
//! --example traffic -- LINES`.
//!
//! Calls per client fall with rank (Zipf's law): a hundred thousand clients in all, a thousand
//! calls a second. The same arguments produce the same log.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

const CLIENTS: f64 = 100_000.0;

fn main() -> ExitCode {
    let Some(lines) = std::env::args().nth(1).and_then(|lines| lines.parse().ok()) else {
        eprintln!("traffic: say how many lines, as in `traffic 1000000`");
        return ExitCode::FAILURE;
    };
    match write(lines, &mut BufWriter::with_capacity(1 << 20, io::stdout().lock())) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn write(lines: u64, out: &mut impl Write) -> io::Result<()> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let paths =
        ["/", "/api/items", "/api/search?q=rate+limit", "/static/app.js", "/static/site.css", "/login", "/api/cart"];
    let agents = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
        "curl/7.88.1",
    ];
    for line in 0..lines {
        let uniform = f64::from((next() >> 32) as u32) / (f64::from(u32::MAX) + 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank below 2^32")]
        let client = CLIENTS.powf(uniform) as u32;
        let [_, a, b, c] = client.wrapping_mul(2_654_435_761).to_be_bytes();
        let second = line / 1_000;
        let (day, hour, minute) = (1 + second / 86_400 % 28, second / 3_600 % 24, second / 60 % 60);
        let random = next();
        let pick = |of: &[&'static str]| of[usize::try_from(random >> 7).unwrap_or(0) % of.len()];
        writeln!(
            out,
            "10.{a}.{b}.{c} - - [{day:02}/Nov/2026:{hour:02}:{minute:02}:{:02} +0000] \"GET {} HTTP/1.1\" 200 {} \"-\" \"{}\"",
            second % 60,
            pick(&paths),
            random % 50_000,
            pick(&agents),
        )?;
    }
    out.flush()
}
