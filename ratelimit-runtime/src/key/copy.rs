//! A key's parts, kept when the key is gone.

use smallvec::SmallVec;

use super::sealed::{Kind, Sink};
use super::{KeyWriter, RateLimitKey};

/// A copy of a key. It has the bucket of the key, in whatever store. A number or a text of up to 32
/// bytes is copied without an allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyCopy(SmallVec<[Part; 1]>);

type Bytes = SmallVec<[u8; 32]>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(Kind, u128),
    Text(Bytes),
    Bytes(Bytes),
    None,
    Some,
    BeginList,
    Item,
    EndList,
    BeginTuple(u8),
    EndTuple,
}

impl KeyCopy {
    /// `None` for the empty tuple, which is no key.
    pub(crate) fn of<K: RateLimitKey + ?Sized>(key: &K) -> Option<KeyCopy> {
        let mut copy = KeyCopy(SmallVec::new());
        key.write_to(&mut copy);
        K::KEYED.then_some(copy)
    }
}

impl Sink for KeyCopy {
    fn number(&mut self, kind: Kind, value: u128) {
        self.0.push(Part::Number(kind, value));
    }

    fn text(&mut self, value: &str) {
        self.0.push(Part::Text(value.as_bytes().into()));
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.push(Part::Bytes(value.into()));
    }

    fn none(&mut self) {
        self.0.push(Part::None);
    }

    fn some(&mut self) {
        self.0.push(Part::Some);
    }

    fn begin_list(&mut self) {
        self.0.push(Part::BeginList);
    }

    fn item(&mut self) {
        self.0.push(Part::Item);
    }

    fn end_list(&mut self) {
        self.0.push(Part::EndList);
    }

    fn begin_tuple(&mut self, parts: u8) {
        self.0.push(Part::BeginTuple(parts));
    }

    fn end_tuple(&mut self) {
        self.0.push(Part::EndTuple);
    }
}

impl RateLimitKey for KeyCopy {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        for part in &self.0 {
            match part {
                Part::Number(kind, value) => writer.number(*kind, *value),
                Part::Text(value) => writer.text(str::from_utf8(value).unwrap_or_default()),
                Part::Bytes(value) => writer.bytes(value),
                Part::None => writer.none(),
                Part::Some => writer.some(),
                Part::BeginList => writer.begin_list(),
                Part::Item => writer.item(),
                Part::EndList => writer.end_list(),
                Part::BeginTuple(parts) => writer.begin_tuple(*parts),
                Part::EndTuple => writer.end_tuple(),
            }
        }
    }
}
