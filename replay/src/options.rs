//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::format::Format;
use crate::key::{Field, Wanted};
use crate::limit::{self, Candidate};

/// Replays an access log through candidate rate limits, and shows which clients each would have
/// denied.
///
/// Reads common and combined logs of nginx and Apache, Caddy's and Traefik's JSON, AWS load
/// balancers' logs, and W3C extended logs (IIS); also CSV, one JSON object a line, and plain times.
/// Each may be compressed by gzip or zstd. Times without a zone are UTC. Writes no files except
/// those of --json and --html.
#[derive(Clone, Debug, Parser)]
#[command(name = "replay", max_term_width = 100)]
pub(crate) struct Options {
    /// Logs to read, merged by time; `-` or none is standard input
    #[arg(value_name = "LOG")]
    pub(crate) logs: Vec<String>,

    /// A candidate: `100/1m`, `100 per minute`, `5/s token_bucket burst 10`, `100/1d fixed_window`,
    /// `1000/calendar month zone Europe/Berlin`; `10/1s+100/1m` decides both together. May be
    /// repeated; each is a column of the table
    #[arg(long = "limit", value_name = "LIMIT", value_parser = Candidate::parse)]
    pub(crate) limits: Vec<Candidate>,

    /// Find the smallest round limit that denies at most this share of the clients, for each
    /// algorithm, as in `0.1%`
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) suggest: Option<f64>,

    /// The period of suggested limits; by default, those of the candidates, or one minute
    #[arg(long, value_name = "PERIOD", value_parser = limit::duration, requires = "suggest")]
    pub(crate) per: Vec<Duration>,

    /// What a client is: `ip` (IPv6 by /64), `user`, `path`, `method`, `host`, `header:NAME`, a
    /// column's name or number, several of them (`user,path`), or `none` for one limit on all calls
    #[arg(long, value_name = "COLUMNS", default_value = "ip")]
    key: Vec<String>,

    /// The column with the time, of CSV and JSON: a name, a number, or a path (`event.time`)
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,

    /// The column with the permits that a call takes, such as `bytes`; by default, each call takes
    /// 1
    #[arg(long, value_name = "COLUMN", value_parser = Field::parse)]
    cost: Option<Field>,

    /// Calls wait for their permits instead of being denied, at most this long, or as long as it
    /// takes
    #[arg(long, value_name = "LONGEST", value_parser = limit::duration, num_args = 0..=1, default_missing_value = "366d")]
    pub(crate) wait: Option<Duration>,

    /// The format of the logs; by default, it is detected for each log
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,

    /// How far out of order lines may be: they are sorted within this time
    #[arg(long, value_name = "TIME", value_parser = limit::duration, default_value = "10s")]
    pub(crate) window: Duration,

    /// How many of the most denied clients to list
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub(crate) top: usize,

    /// Replace addresses, users and other names of clients with numbers
    #[arg(long)]
    pub(crate) anonymize: bool,

    /// Write the report as JSON to this file; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write the report as one HTML page, with its curves, to this file; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

impl Options {
    /// The columns that are read.
    pub(crate) fn wanted(&self) -> Result<Wanted, String> {
        let names: Vec<&str> = self.key.iter().flat_map(|key| key.split(',')).map(str::trim).collect();
        let key_is_explicit = names != ["ip"];
        let key = match names.as_slice() {
            ["none"] => None,
            names if names.contains(&"none") => return Err("`--key none` stands alone".to_owned()),
            names => Some(names.iter().map(|name| Field::parse(name)).collect::<Result<_, _>>()?),
        };
        Ok(Wanted { time: self.time.clone(), key, key_is_explicit, cost: self.cost.clone() })
    }

    pub(crate) fn has_costs(&self) -> bool {
        self.cost.is_some()
    }

    /// The curve over `count` is part of the page and of JSON.
    pub(crate) fn wants_curves(&self) -> bool {
        self.html.is_some() || self.json.is_some()
    }

    /// The periods for which limits are suggested.
    pub(crate) fn periods(&self) -> Vec<Duration> {
        let mut periods = self.per.clone();
        if periods.is_empty() {
            periods = self
                .limits
                .iter()
                .filter_map(|candidate| candidate.limits.first())
                .map(ratelimit_runtime::Limit::per)
                .collect();
        }
        if periods.is_empty() {
            periods.push(Duration::from_secs(60));
        }
        periods.sort_unstable();
        periods.dedup();
        periods
    }
}

/// `0.1%`, or `0.001`.
fn share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, of) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim(), 100.0),
        None => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if (0.0..=of).contains(&number) => Ok(number / of),
        _ => Err(format!("`{text}` is not a share of clients: write for example `0.1%`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_or_a_fraction() {
        assert_eq!(share("0.1%").map(|share| share * 1000.0), Ok(1.0));
        assert_eq!(share("0.25"), Ok(0.25));
        for text in ["", "%", "101%", "2", "-1%", "NaN", "NaN%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
