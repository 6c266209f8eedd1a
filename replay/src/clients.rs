//! The clients of a log, numbered, so that everything kept per client is an array.

use hashbrown::HashTable;

#[derive(Debug, Default)]
pub(crate) struct Clients {
    table: HashTable<Entry>,
    hashes: Vec<u64>,
    /// All keys, concatenated, and the end of each.
    keys: Vec<u8>,
    ends: Vec<usize>,
    /// Calls of each client.
    pub(crate) calls: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Bits of the hash, which reject most other clients without comparing keys.
    tag: u32,
    number: u32,
}

impl Clients {
    /// The number of the client that makes a call. At most 2³² − 1 clients; further ones share the
    /// last number.
    pub(crate) fn number(&mut self, hash: u64, key: &[u8]) -> u32 {
        let Clients { table, hashes, keys, ends, calls } = self;
        let tag = (hash >> 32) as u32;
        let of = |number: u32| {
            let number = number as usize;
            let start = number.checked_sub(1).map_or(0, |before| ends[before]);
            &keys[start..ends[number]]
        };
        if let Some(found) = table.find(hash, |entry| entry.tag == tag && of(entry.number) == key) {
            calls[found.number as usize] += 1;
            return found.number;
        }
        let number = u32::try_from(hashes.len()).unwrap_or(u32::MAX).min(u32::MAX - 1);
        if number as usize == hashes.len() {
            hashes.push(hash);
            keys.extend_from_slice(key);
            ends.push(keys.len());
            calls.push(1);
            table.insert_unique(hash, Entry { tag, number }, |entry| hashes[entry.number as usize]);
        } else {
            calls[number as usize] += 1;
        }
        number
    }

    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(crate) fn key(&self, number: u32) -> &[u8] {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.keys[start..self.ends[number]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_number_despite_collisions() {
        let mut clients = Clients::default();
        assert_eq!(clients.number(7, b"a"), 0);
        assert_eq!(clients.number(7, b"b"), 1);
        assert_eq!(clients.number(7, b""), 2);
        assert_eq!(clients.number(7, b"a"), 0);
        assert_eq!(clients.calls, [2, 1, 1]);
        assert_eq!((clients.key(0), clients.key(1), clients.key(2)), (&b"a"[..], &b"b"[..], &b""[..]));
    }
}
