//! A key without its type, for code that few programs need and that should not be compiled per
//! type.

use super::sealed::{Kind, Sink};
use super::{KeyWriter, RateLimitKey};

/// A key of any type. It writes the same parts as the key itself.
#[derive(Clone, Copy)]
pub(crate) struct ErasedKey<'a>(&'a dyn Parts);

/// What a key writes, to any sink.
trait Parts {
    fn write(&self, sink: AnySink<'_>);
}

impl<K: RateLimitKey> Parts for K {
    fn write(&self, mut sink: AnySink<'_>) {
        self.write_to(&mut sink);
    }
}

impl<'a> ErasedKey<'a> {
    pub(crate) fn of<K: RateLimitKey>(key: &'a K) -> ErasedKey<'a> {
        ErasedKey(key)
    }
}

impl RateLimitKey for ErasedKey<'_> {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        self.0.write(AnySink(writer));
    }
}

struct AnySink<'a>(&'a mut dyn Sink);

impl Sink for AnySink<'_> {
    fn number(&mut self, kind: Kind, value: u128) {
        self.0.number(kind, value);
    }

    fn text(&mut self, value: &str) {
        self.0.text(value);
    }

    fn bytes(&mut self, value: &[u8]) {
        self.0.bytes(value);
    }

    fn none(&mut self) {
        self.0.none();
    }

    fn some(&mut self) {
        self.0.some();
    }

    fn begin_list(&mut self) {
        self.0.begin_list();
    }

    fn item(&mut self) {
        self.0.item();
    }

    fn end_list(&mut self) {
        self.0.end_list();
    }

    fn begin_tuple(&mut self, parts: u8) {
        self.0.begin_tuple(parts);
    }

    fn end_tuple(&mut self) {
        self.0.end_tuple();
    }
}
