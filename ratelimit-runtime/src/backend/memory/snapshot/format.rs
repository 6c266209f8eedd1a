//! The bytes of a snapshot.
//!
//! A head (kind, version, time, the weights of the hash), then a heading and blocks of buckets for
//! each limiter. At the end, the length and a checksum of all bytes before it. Numbers are
//! little-endian, or LEB128 inside blocks.

use std::io::{self, Read, Seek, Write};

use smallvec::SmallVec;

use super::super::state::Entry;
use super::SnapshotError;
use super::checksum::Checksum;
use crate::algorithm::Rule;
use crate::algorithm::codec::{read, write};
use crate::algorithm::record::Record;
use crate::decision::Address;
use crate::hash::{HashSink, Seed, Weights};
use crate::key::sealed::Sink as _;
use crate::limit::MAX_LIMITS;

const KIND: [u8; 8] = *b"ratelim\n";
pub(super) const VERSION: u32 = 1;
/// The end, after the length and the checksum.
const END: [u8; 8] = *b"\nmiletar";
const END_BYTES: u64 = 24;

const LIMITER: u8 = 1;
const BUCKETS: u8 = 2;
const LAST: u8 = 0;

/// The longest identity of a limiter.
pub(super) const LONGEST_IDENTITY: usize = 1 << 16;
/// A block is written once it has this many bytes.
pub(super) const BLOCK: usize = 1 << 16;
/// The most bytes of a block. A bucket has less than half of that.
const MOST: usize = 1 << 18;

/// Where a bucket's state belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Place {
    /// With the limits as written.
    Usual,
    /// With other limits.
    Free,
    /// Beside the bucket: `record.blocked`, and a debt until `record.newest`.
    Held,
}

/// A bucket, or what holds its key.
#[derive(Debug)]
pub(in super::super) struct Item {
    pub(in super::super) address: Address,
    pub(in super::super) place: Place,
    pub(in super::super) entry: Entry,
}

/// What all buckets of a limiter share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Heading {
    pub(in super::super) identity: String,
    /// The start of the hash.
    pub(in super::super) start: u64,
    pub(in super::super) limits: SmallVec<[Reach; 1]>,
}

/// A limit as written, and the largest `count` and `per` of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Reach {
    limit: [u64; 4],
    /// The largest `count`.
    pub(in super::super) most: u32,
    /// The longest `per` in nanoseconds.
    pub(in super::super) longest: u64,
}

impl Reach {
    pub(in super::super) fn new(rule: &Rule, (most, longest): (u32, u64)) -> Reach {
        let limit = &rule.limit;
        let algorithm = u64::from(limit.algorithm() as u8);
        let limit = [limit.count().into(), limit.burst().into(), limit.per_micros(), algorithm];
        Reach { limit, most, longest }
    }

    pub(in super::super) fn is_of(&self, rule: &Rule) -> bool {
        self.limit == Reach::new(rule, (0, 0)).limit
    }
}

/// The head of a file, before the first limiter.
pub(super) struct Head {
    /// When it was written, by the wall clock.
    pub(super) wall: u64,
    pub(super) weights: &'static Weights,
}

/// Writes a snapshot.
pub(super) struct Writer<W> {
    out: W,
    checksum: Checksum,
    length: u64,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, wall: u64, weights: &'static Weights) -> io::Result<Writer<W>> {
        let block = Vec::with_capacity(2 * BLOCK);
        let mut writer = Writer { out, checksum: Checksum::new(), length: 0, block };
        writer.put(&KIND)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&wall.to_le_bytes())?;
        writer.put(&probe(weights).to_le_bytes())?;
        for number in weights.numbers() {
            writer.put(&number.to_le_bytes())?;
        }
        Ok(writer)
    }

    pub(super) fn limiter(&mut self, heading: &Heading) -> io::Result<()> {
        self.end_block()?;
        let identity = heading.identity.as_bytes();
        let mut bytes = Vec::with_capacity(64 + identity.len());
        write(&mut bytes, identity.len() as u64);
        bytes.extend_from_slice(identity);
        bytes.extend_from_slice(&heading.start.to_le_bytes());
        write(&mut bytes, heading.limits.len() as u64);
        for reach in &heading.limits {
            reach.limit.iter().for_each(|number| write(&mut bytes, *number));
            write(&mut bytes, reach.most.into());
            write(&mut bytes, reach.longest);
        }
        self.section(LIMITER, &bytes)
    }

    pub(super) fn item(&mut self, item: &Item) -> io::Result<()> {
        item.encode(&mut self.block);
        if self.block.len() >= BLOCK { self.end_block() } else { Ok(()) }
    }

    /// Returns the number of bytes.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.end_block()?;
        self.section(LAST, &[])?;
        let (length, checksum) = (self.length + END_BYTES, self.checksum.get());
        self.put(&length.to_le_bytes())?;
        self.put(&checksum.to_le_bytes())?;
        self.put(&END)?;
        Ok(self.length)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            self.section(BUCKETS, &block)?;
            block.clear();
        }
        self.block = block;
        Ok(())
    }

    fn section(&mut self, tag: u8, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.put(&[tag])?;
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.add(bytes);
        self.length += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// A part of a file.
pub(super) enum Section {
    Limiter(Heading),
    /// To be read by [`Item::decode`].
    Buckets(Vec<u8>),
    Last,
}

/// Reads a snapshot whose length and checksum are right.
pub(super) struct Reader<R> {
    input: R,
}

/// Checks kind, version, length and checksum of `length` bytes. Allocates nothing that depends on
/// them.
pub(super) fn check<R: Read + Seek>(input: &mut R, length: u64) -> Result<(), SnapshotError> {
    let mut kind = [0; KIND.len()];
    let mut version = [0; 4];
    if length < (kind.len() + version.len()) as u64 {
        return Err(SnapshotError::Foreign);
    }
    let io = |error| SnapshotError::reading(&error);
    input.read_exact(&mut kind).map_err(io)?;
    input.read_exact(&mut version).map_err(io)?;
    if kind != KIND {
        return Err(SnapshotError::Foreign);
    }
    match u32::from_le_bytes(version) {
        VERSION => {}
        newer if newer > VERSION => return Err(SnapshotError::Newer(newer)),
        older => return Err(SnapshotError::Older(older)),
    }
    let Some(before) = length.checked_sub(END_BYTES) else { return Err(SnapshotError::Torn) };
    input.seek(io::SeekFrom::Start(before)).map_err(io)?;
    let (written, checksum) = (number(input).map_err(io)?, number(input).map_err(io)?);
    let mut end = [0; END.len()];
    input.read_exact(&mut end).map_err(io)?;
    if written != length || end != END {
        return Err(SnapshotError::Torn);
    }
    input.rewind().map_err(io)?;
    let (mut found, mut left) = (Checksum::new(), before);
    let mut bytes = vec![0; BLOCK];
    while left > 0 {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        input.read_exact(&mut bytes[..some]).map_err(io)?;
        found.add(&bytes[..some]);
        left -= some as u64;
    }
    if found.get() != checksum {
        return Err(SnapshotError::Corrupt);
    }
    input.rewind().map_err(io)
}

impl<R: Read> Reader<R> {
    /// Call after [`check`].
    pub(super) fn new(mut input: R) -> Result<(Reader<R>, Head), SnapshotError> {
        let io = |error| SnapshotError::reading(&error);
        let mut start = [0; KIND.len() + 4];
        input.read_exact(&mut start).map_err(io)?;
        let (wall, probed) = (number(&mut input).map_err(io)?, number(&mut input).map_err(io)?);
        let mut numbers = [0; Weights::NUMBERS];
        for place in &mut numbers {
            *place = number(&mut input).map_err(io)?;
        }
        let weights = Weights::of(&numbers);
        if probe(weights) != probed {
            return Err(SnapshotError::OtherHash);
        }
        Ok((Reader { input }, Head { wall, weights }))
    }

    pub(super) fn section(&mut self) -> Result<Section, SnapshotError> {
        let mut start = [0; 5];
        self.input.read_exact(&mut start).map_err(|error| SnapshotError::reading(&error))?;
        let [tag, length @ ..] = start;
        let length = u32::from_le_bytes(length) as usize;
        if length > MOST {
            return Err(SnapshotError::Corrupt);
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes).map_err(|error| SnapshotError::reading(&error))?;
        match tag {
            LIMITER => heading(&bytes).map(Section::Limiter).ok_or(SnapshotError::Corrupt),
            BUCKETS => Ok(Section::Buckets(bytes)),
            LAST => Ok(Section::Last),
            _ => Err(SnapshotError::Corrupt),
        }
    }
}

fn heading(mut bytes: &[u8]) -> Option<Heading> {
    let bytes = &mut bytes;
    let length = usize::try_from(read(bytes)?).ok()?;
    let (identity, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let identity = std::str::from_utf8(identity).ok()?.to_owned();
    let start = take_number(bytes)?;
    let limits = read(bytes)?;
    if limits > MAX_LIMITS as u64 {
        return None;
    }
    let mut heading = Heading { identity, start, limits: SmallVec::new() };
    for _ in 0..limits {
        let limit = [read(bytes)?, read(bytes)?, read(bytes)?, read(bytes)?];
        let (most, longest) = (read(bytes)?.try_into().ok()?, read(bytes)?);
        heading.limits.push(Reach { limit, most, longest });
    }
    bytes.is_empty().then_some(heading)
}

const UNKEYED: u8 = 4;
const VARIES: u8 = 8;

impl Item {
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let place = match self.place {
            Place::Usual => 0,
            Place::Free => 1,
            Place::Held => 2,
        };
        let first = place | if self.entry.varies { VARIES } else { 0 };
        match self.address {
            Address::Unkeyed => bytes.push(first | UNKEYED),
            Address::Hash(hash) => {
                bytes.push(first);
                bytes.extend_from_slice(&hash.to_le_bytes());
            }
        }
        let Entry { record, mixed, varies: _, idle_at, denied_until } = &self.entry;
        bytes.push(*mixed);
        write(bytes, *idle_at);
        write(bytes, *denied_until);
        let at = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        record.encode_to(bytes);
        let length = u32::try_from(bytes.len() - at - 4).unwrap_or_default();
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Takes an item from the front.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Item> {
        let first = take(bytes)?;
        let address = if first & UNKEYED == 0 { Address::Hash(take_number(bytes)?) } else { Address::Unkeyed };
        let place = match first & !(UNKEYED | VARIES) {
            0 => Place::Usual,
            1 => Place::Free,
            2 => Place::Held,
            _ => return None,
        };
        let (mixed, idle_at, denied_until) = (take(bytes)?, read(bytes)?, read(bytes)?);
        let (length, rest) = bytes.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *bytes = rest;
        let record = Record::decode(record).ok()?;
        let varies = first & VARIES != 0;
        Some(Item { address, place, entry: Entry { record, mixed, varies, idle_at, denied_until } })
    }
}

fn take(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*first))
}

fn number(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The hash of keys that never change: whether another build would find the buckets.
fn probe(weights: &'static Weights) -> u64 {
    let seed = Seed::at(weights, 0);
    let mut sink = HashSink::new(&seed);
    sink.word(1);
    // Longer than a block, and of all lengths of a last word.
    (0..40).for_each(|length| sink.text(&"a probe of forty bytes that is never used"[..length]));
    sink.bytes(&[7; 1_000]);
    let [hash] = sink.finish();
    hash
}
