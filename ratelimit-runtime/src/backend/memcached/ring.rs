//! Which of several servers holds a key: rendezvous hashing (Thaler and Ravishankar, 1998). All
//! processes must find the same one, so the hash is fixed: FNV-1a, finished by the mixer of
//! `SplitMix64`.

use std::fmt::Write;

use super::address::Address;

/// The index of the key's server. Adding or removing a server moves only that server's keys.
pub(super) fn place<'a>(servers: impl ExactSizeIterator<Item = &'a Address>, key: &str) -> usize {
    if servers.len() < 2 {
        return 0;
    }
    let weight = |server: &Address| {
        let mut hash = Hash::default();
        // Writing to a hash does not fail.
        let _ = write!(hash, "{server} {key}");
        hash.finished()
    };
    servers.enumerate().max_by_key(|(_, server)| weight(server)).map_or(0, |(place, _)| place)
}

struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Hash {
    fn finished(&self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(names: &[&str]) -> Vec<Address> {
        names.iter().map(|name| Address::Tcp((*name).to_owned(), 11_211)).collect()
    }

    fn of(servers: &[Address], key: &str) -> String {
        servers[place(servers.iter(), key)].to_string()
    }

    #[test]
    fn keys_are_spread_evenly_and_whatever_the_order() {
        let (one, other) = (servers(&["a", "b", "c"]), servers(&["c", "a", "b"]));
        let mut counts = [0; 3];
        for key in (0..30_000).map(|number| format!("rl:1:{{api:{number}}}:s1")) {
            counts[place(one.iter(), &key)] += 1;
            assert_eq!(of(&one, &key), of(&other, &key));
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_server_that_leaves_moves_its_own_keys_alone() {
        let (before, after) = (servers(&["a", "b", "c"]), servers(&["a", "c"]));
        for key in (0..1_000).map(|number| number.to_string()) {
            let server = of(&before, &key);
            assert!(server == "b:11211" || server == of(&after, &key));
        }
    }

    /// Processes of other versions must find the same server.
    #[test]
    fn the_hash_stays_as_it_is() {
        let servers = servers(&["a", "b", "c", "d"]);
        let places: Vec<usize> = (0..12).map(|number| place(servers.iter(), &format!("key{number}"))).collect();
        assert_eq!(places, [1, 2, 0, 2, 3, 0, 3, 1, 2, 2, 1, 3]);
    }
}
