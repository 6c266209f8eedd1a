//! Reads logs from files and standard input into blocks of calls. Each log has its own thread,
//! which reads, decompresses and parses.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use memchr::{memchr, memrchr};

use crate::format::{FORMATS, Format, Line, Parser, Reason, Values, check_columns, detect, first_lines};
use crate::key::{self, Wanted};
use crate::time::Times;

/// Bytes read at a time. The format of a log is detected in its first block.
const BLOCK: usize = 1 << 20;
/// Longer lines are counted and skipped.
pub(crate) const LONGEST_LINE: usize = 64 << 10;
/// Unparsed lines kept for the report, per log.
const SHOWN: usize = 5;
/// How many blocks a reading thread may be ahead of the decisions.
const AHEAD: usize = 3;

/// A call in a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) time: u64,
    /// The key's hash.
    pub(crate) hash: u64,
    /// The end of the key in the block's keys. It starts at the end of the previous one.
    pub(crate) key_end: u32,
    pub(crate) cost: u32,
}

/// Some lines of a log.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) rows: Vec<Row>,
    pub(crate) keys: Vec<u8>,
    pub(crate) counts: Counts,
    /// Why the log could not be read to its end.
    pub(crate) error: Option<String>,
    pub(crate) is_last: bool,
}

/// Counts of lines by result.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) lines: u64,
    pub(crate) blank: u64,
    pub(crate) headers: u64,
    pub(crate) unparsed: u64,
    pub(crate) too_long: u64,
    /// Costs that are not numbers, or are above the largest cost.
    pub(crate) odd_costs: u64,
    pub(crate) first_unparsed: Vec<Unparsed>,
}

/// A line that does not parse.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Unparsed {
    pub(crate) line: u64,
    pub(crate) reason: Reason,
    pub(crate) text: String,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.lines += other.lines;
        self.blank += other.blank;
        self.headers += other.headers;
        self.unparsed += other.unparsed;
        self.too_long += other.too_long;
        self.odd_costs += other.odd_costs;
        let room = SHOWN.saturating_sub(self.first_unparsed.len());
        self.first_unparsed.extend(other.first_unparsed.into_iter().take(room));
    }
}

/// A log being read.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) compression: Option<&'static str>,
    pub(crate) has_columns: bool,
    pub(crate) blocks: Receiver<Block>,
}

/// Bytes in total, and bytes read so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// 0 if unknown.
    pub(crate) total: AtomicU64,
    pub(crate) read: AtomicU64,
}

/// Opens a log, detects its format and starts to read it. `-` is standard input.
pub(crate) fn open(
    name: &str,
    format: Option<Format>,
    wanted: &Wanted,
    progress: &Arc<Progress>,
) -> Result<Log, String> {
    let shown = if name == "-" { "standard input" } else { name };
    let say = |message: String| format!("{shown} {message}");
    let raw: Box<dyn Read + Send> = if name == "-" {
        if io::stdin().is_terminal() {
            return Err(format!("name the log to read, or pipe one in. The formats are: {FORMATS}"));
        }
        Box::new(io::stdin())
    } else {
        file(Path::new(name), progress).map_err(say)?
    };
    let counted = Counted { raw, progress: Arc::clone(progress) };
    let (compression, mut text) = unpack(counted).map_err(say)?;

    let mut buffer = vec![0; BLOCK];
    let (filled, ended) = fill(&mut text, &mut buffer, 0).map_err(|error| say(format!("cannot be read: {error}")))?;
    let mut first = &buffer[..filled];
    if let Some(rest) = first.strip_prefix(b"\xef\xbb\xbf") {
        first = rest;
    }
    if first.trim_ascii().is_empty() && ended {
        return Err(say(format!("is empty. The formats are: {FORMATS}")));
    }
    let is_binary = memchr(0, first).is_some();
    let whole = if ended { first.len() } else { memrchr(b'\n', first).unwrap_or(first.len()) };
    let parser = match format {
        _ if is_binary => {
            return Err(say(format!("is binary, not a log. The formats are: {FORMATS}")));
        }
        Some(format) => {
            check_columns(format, &first_lines(&first[..whole]), wanted).map_err(say)?;
            Parser::new(format, wanted).map_err(say)?
        }
        None => detect(&first_lines(&first[..whole]), wanted).map_err(say)?,
    };
    let skipped = filled - first.len();
    buffer.drain(..skipped);
    buffer.resize(BLOCK, 0);

    let (format, has_columns) = (parser.format, parser.has_columns());
    let (sender, blocks) = sync_channel(AHEAD);
    let mut reading = Reading {
        text,
        wanted: Keys::new(wanted, has_columns),
        parser,
        times: Times::default(),
        lines: 0,
        skipping: false,
    };
    thread::spawn(move || reading.run(buffer, filled - skipped, ended, &sender));
    Ok(Log { name: shown.to_owned(), format, compression, has_columns, blocks })
}

fn file(path: &Path, progress: &Progress) -> Result<Box<dyn Read + Send>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be opened: {error}"))?;
    if metadata.is_dir() {
        return Err(format!("is a directory: name the logs in it. The formats are: {FORMATS}"));
    }
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    if metadata.is_file() {
        progress.total.fetch_add(metadata.len(), Ordering::Relaxed);
    }
    Ok(Box::new(file))
}

/// Counts a log's bytes as they are read, before decompression.
struct Counted {
    raw: Box<dyn Read + Send>,
    progress: Arc<Progress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(buffer)?;
        self.progress.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

type Text = Box<dyn Read + Send>;

/// Decompresses gzip and zstd, recognized by their first bytes.
fn unpack(mut raw: Counted) -> Result<(Option<&'static str>, Text), String> {
    let mut magic = vec![0; 6];
    let (read, _) = fill(&mut raw, &mut magic, 0).map_err(|error| format!("cannot be read: {error}"))?;
    magic.truncate(read);
    let kind = magic.clone();
    let whole = io::BufReader::with_capacity(BLOCK / 4, io::Cursor::new(magic).chain(raw));
    match kind.as_slice() {
        [0x1f, 0x8b, ..] => Ok((Some("gzip"), Box::new(flate2::bufread::MultiGzDecoder::new(whole)))),
        // A frame, or a skippable frame, which parallel compressors write first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(whole)
                .map_err(|error| format!("cannot be unpacked: {error}"))?;
            Ok((Some("zstd"), Box::new(decoder)))
        }
        [b'B', b'Z', b'h', ..] => Err("is compressed by bzip2: pipe it in, as in `bzip2 -dc FILE | ..`".to_owned()),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            Err("is compressed by xz: pipe it in, as in `xz -dc FILE | ..`".to_owned())
        }
        [b'P', b'K', 3, 4, ..] => Err("is a zip archive: pipe it in, as in `unzip -p FILE | ..`".to_owned()),
        _ => Ok((None, Box::new(whole))),
    }
}

/// Fills the buffer from `filled` on. Returns how much is filled, and whether the log ended.
fn fill(text: &mut impl Read, buffer: &mut [u8], mut filled: usize) -> io::Result<(usize, bool)> {
    while filled < buffer.len() {
        match text.read(&mut buffer[filled..]) {
            Ok(0) => return Ok((filled, true)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((filled, false))
}

/// Positions of the key and the cost among a line's values.
struct Keys {
    fields: Vec<key::Field>,
    values: usize,
    cost: Option<usize>,
}

impl Keys {
    fn new(wanted: &Wanted, has_columns: bool) -> Keys {
        let fields = wanted.key.clone().filter(|_| has_columns).unwrap_or_default();
        Keys { values: wanted.fields().len(), cost: wanted.cost.as_ref().map(|_| fields.len() + 1), fields }
    }
}

struct Reading {
    text: Text,
    wanted: Keys,
    parser: Parser,
    times: Times,
    /// The number of lines before the current block.
    lines: u64,
    /// Whether the current position is inside an overlong line.
    skipping: bool,
}

impl Reading {
    /// Sends block after block, until the log ends or the receiver is gone.
    fn run(&mut self, mut buffer: Vec<u8>, mut filled: usize, mut ended: bool, blocks: &SyncSender<Block>) {
        let mut values = Values::default();
        loop {
            let whole = match memrchr(b'\n', &buffer[..filled]) {
                _ if ended => filled,
                Some(newline) => newline + 1,
                None => 0,
            };
            let mut block = Block::default();
            self.lines(&buffer[..whole], &mut block, &mut values);
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
            if filled > LONGEST_LINE {
                self.skipping = true;
            }
            if self.skipping {
                // Only its newline matters now.
                filled = 0;
            }
            let mut last = ended;
            if !last {
                match fill(&mut self.text, &mut buffer, filled) {
                    Ok(read) => (filled, ended) = read,
                    Err(error) => {
                        block.error = Some(format!("cannot be read on from line {}: {error}", self.lines + 1));
                        last = true;
                    }
                }
            } else if self.skipping {
                self.skipping = false;
                block.counts.lines += 1;
                block.counts.too_long += 1;
            }
            block.is_last = last;
            if blocks.send(block).is_err() || last {
                return;
            }
        }
    }

    fn lines(&mut self, mut text: &[u8], block: &mut Block, values: &mut Values) {
        block.rows.reserve(text.len() / 128);
        block.keys.reserve(text.len() / 8);
        while !text.is_empty() {
            let end = memchr(b'\n', text).unwrap_or(text.len());
            let line = &text[..end];
            text = text.get(end + 1..).unwrap_or_default();
            self.lines += 1;
            block.counts.lines += 1;
            if self.skipping || line.len() > LONGEST_LINE {
                self.skipping = false;
                block.counts.too_long += 1;
                continue;
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.trim_ascii().is_empty() {
                block.counts.blank += 1;
                continue;
            }
            if let Err(reason) = self.line(line, block, values) {
                block.counts.unparsed += 1;
                if block.counts.first_unparsed.len() < SHOWN {
                    let text = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                    block.counts.first_unparsed.push(Unparsed { line: self.lines, reason, text });
                }
            }
        }
    }

    fn line(&mut self, line: &[u8], block: &mut Block, values: &mut Values) -> Result<(), Reason> {
        values.clear(self.wanted.values);
        if self.parser.read(line, values)? == Line::Header {
            block.counts.headers += 1;
            return Ok(());
        }
        let time = values.get(0).ok_or("there is no time")?;
        let time = self.times.parse(time).ok_or("the time cannot be read")?;
        let cost = match self.wanted.cost {
            Some(position) => Reading::cost(values.get(position), block),
            None => 1,
        };
        let start = block.keys.len();
        if !self.wanted.fields.is_empty() {
            key::write_parts(&self.wanted.fields, |position| values.get(position + 1), &mut block.keys);
        }
        let hash = foldhash::quality::FixedState::default();
        let hash = std::hash::BuildHasher::hash_one(&hash, &block.keys[start..]);
        let key_end = u32::try_from(block.keys.len()).map_err(|_| "the keys of a block are too long")?;
        block.rows.push(Row { time, hash, key_end, cost });
        Ok(())
    }

    /// Permits of a call. A missing cost is 0; a cost that is not a number is 1, and counted.
    fn cost(value: Option<&[u8]>, block: &mut Block) -> u32 {
        let text = value.map(<[u8]>::trim_ascii).unwrap_or_default();
        if matches!(text, b"" | b"-") {
            return 0;
        }
        let number =
            std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()).filter(|cost| *cost >= 0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked, and rounded up on purpose"
        )]
        match number {
            Some(cost) if cost <= f64::from(u32::MAX) => cost.ceil() as u32,
            Some(_) => {
                block.counts.odd_costs += 1;
                u32::MAX
            }
            None => {
                block.counts.odd_costs += 1;
                1
            }
        }
    }
}
