//! Shows and changes the limits of a fleet, from a terminal.
//!
//! ```console
//! $ cargo run --example limits -- show
//! $ cargo run --example limits -- set search 200/1m
//! $ cargo run --example limits -- push limits.toml
//! $ cargo run --example limits -- peek login u64:42
//! $ cargo run --example limits -- peek search str:ann str:acme '()'
//! $ cargo run --example limits -- reset login '(str:ann,u8:1)'
//! $ cargo run --example limits -- block login u64:42 10m
//! $ cargo run --example limits -- unblock login u64:42
//! ```
//!
//! The server is that of the environment (`REDIS_URL`, ..). The processes of the fleet call
//! `RedisBackend::watch_configuration`: they follow the document that `set` and `push` write, and
//! publish the limiters that `show` lists.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ratelimit_examples::key::{Key, Keys, time};
use ratelimit_runtime::{
    BackendError, Configuration, Limit, OnBackendError, PublishedLimiter, RateLimiter, RateLimiterBuilder, RedisBackend,
};
use serde_json::{Map, Value, json};

/// A person at a terminal can wait longer than a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Shows and changes the limits of a fleet.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the limiters of all processes, and the shared document.
    Show,
    /// Sets the limits of a limiter in the shared document, such as `200/1m`.
    Set {
        limiter: String,
        #[arg(required = true)]
        limits: Vec<Limit>,
    },
    /// Replaces the shared document with a TOML or JSON file.
    Push { file: std::path::PathBuf },
    /// Shows what a key has left, and whether it is blocked or banned. For limits with separate
    /// keys, write all keys of a call.
    Peek {
        limiter: String,
        #[arg(required = true)]
        keys: Vec<Key>,
    },
    /// Resets a key, or one key for each limit.
    Reset {
        limiter: String,
        #[arg(required = true)]
        keys: Vec<Key>,
    },
    /// Denies a key for a time, such as `10m`, in all processes.
    Block {
        limiter: String,
        key: Key,
        #[arg(value_parser = time)]
        time: Duration,
    },
    /// Ends a block.
    Unblock { limiter: String, key: Key },
}

fn main() -> ExitCode {
    match RedisBackend::builder()
        .timeout(TIMEOUT)
        .build()
        .map_err(Into::into)
        .and_then(|redis| run(&redis, Arguments::parse().command))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limits: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(redis: &RedisBackend, command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Show => show(redis)?,
        Command::Set { limiter, limits } => set(redis, &limiter, &limits)?,
        Command::Push { file } => {
            Configuration::read(&file)?;
            let (before, after) = (redis.configuration()?, std::fs::read_to_string(&file)?);
            replace(redis, &before, &after)?;
        }
        Command::Peek { limiter, keys } => {
            let keys = Keys(keys);
            for limiter in found(redis, &limiter)? {
                match keys.peek(&limiter)? {
                    Ok(left) => println!("{} left of {}", left.remaining(), left.limit()),
                    Err(exceeded) => println!("{exceeded}"),
                }
            }
        }
        Command::Reset { limiter, keys } => {
            let keys = Keys(keys);
            found(redis, &limiter)?.iter().try_for_each(|limiter| keys.reset(limiter))?;
        }
        Command::Block { limiter, key, time } => {
            found(redis, &limiter)?.iter().try_for_each(|limiter| limiter.block(&key, time))?;
        }
        Command::Unblock { limiter, key } => {
            found(redis, &limiter)?.iter().try_for_each(|limiter| limiter.unblock(&key))?;
        }
    }
    Ok(())
}

fn show(redis: &RedisBackend) -> Result<(), BackendError> {
    for limiter in redis.published()? {
        // A limit that is off, or in a dry run, admits every call.
        let applying = limiter.limits.iter().filter(|limit| limit.count() < u32::MAX);
        let limits: Vec<String> = applying.map(ToString::to_string).collect();
        let limits = if limits.is_empty() { "no limit applies".to_owned() } else { limits.join(", ") };
        println!("{}: {limits}", limiter.name);
    }
    let document = redis.configuration()?;
    if !document.is_empty() {
        println!("\n{document}");
    }
    Ok(())
}

/// Changes one line of the document.
fn set(redis: &RedisBackend, limiter: &str, limits: &[Limit]) -> Result<(), Box<dyn Error>> {
    let before = redis.configuration()?;
    let mut document: Map<String, Value> = match before.trim() {
        "" => Map::new(),
        json => serde_json::from_str(json).map_err(|_| "the shared document is TOML: edit your file, and `push` it")?,
    };
    let limits: Vec<String> = limits.iter().map(ToString::to_string).collect();
    let mut line = Map::new();
    if let Some(Value::Object(before)) = document.get(limiter) {
        // A limiter that is off, or in a dry run, stays so.
        let switches = before.iter().filter(|(field, _)| matches!(field.as_str(), "dry_run" | "enabled"));
        line = switches.map(|(field, value)| (field.clone(), value.clone())).collect();
    }
    line.insert("limits".to_owned(), json!(limits));
    document.insert(limiter.to_owned(), Value::Object(line));
    replace(redis, &before, &serde_json::to_string_pretty(&document)?)
}

fn replace(redis: &RedisBackend, before: &str, after: &str) -> Result<(), Box<dyn Error>> {
    if redis.replace_configuration(before, after)? {
        Ok(())
    } else {
        Err("somebody else has just changed the document: look at it, and try again".into())
    }
}

/// A handle of each limiter of this name that a process of the fleet has published: limiters whose
/// algorithms or periods differ have buckets of their own.
fn found(redis: &RedisBackend, name: &str) -> Result<Vec<RateLimiter>, Box<dyn Error>> {
    let published = redis.published()?.into_iter().filter(|limiter| limiter.name == name);
    let handles: Vec<RateLimiter> = published.map(|limiter| handle(redis, limiter)).collect::<Result<_, _>>()?;
    if handles.is_empty() { Err(format!("no process has published a limiter `{name}`").into()) } else { Ok(handles) }
}

fn handle(redis: &RedisBackend, published: PublishedLimiter) -> Result<RateLimiter, Box<dyn Error>> {
    let builder = RateLimiter::builder(published.name).backend(redis.clone());
    let mut builder = builder.on_backend_error(OnBackendError::Deny);
    if let Some(backoff) = published.backoff {
        let (initial, max) = (backoff.initial(), backoff.max());
        builder = if backoff.is_ban() { builder.ban(initial) } else { builder.backoff(initial, max) };
    }
    let mut before = None;
    let add = |builder: RateLimiterBuilder, (limit, key): (Limit, u8)| {
        if before.replace(key) == Some(key) { builder.limit_of_same_key(limit) } else { builder.limit(limit) }
    };
    let limiter = published.written.into_iter().zip(published.keys).fold(builder, add).build()?;
    limiter.set_limits(&published.limits)?;
    Ok(limiter)
}
