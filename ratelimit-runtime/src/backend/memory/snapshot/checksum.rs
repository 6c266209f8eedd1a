//! CRC-64/XZ: detects torn writes and flipped bits, the same in every build. It does not protect
//! against someone who may write the file.

/// The checksum of each byte followed by 0 to 7 zero bytes.
static TABLES: [[u64; 256]; 8] = {
    // ECMA-182, reflected.
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut bit) = (byte as u64, 0);
        // A table for each eight bits.
        while bit < 64 {
            rest = if rest & 1 == 1 { rest >> 1 ^ POLYNOMIAL } else { rest >> 1 };
            bit += 1;
            if bit % 8 == 0 {
                tables[bit / 8 - 1][byte] = rest;
            }
        }
        byte += 1;
    }
    tables
};

/// The checksum of the bytes so far.
#[derive(Clone, Copy)]
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn new() -> Checksum {
        Checksum(u64::MAX)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        // Slicing by eight (M. Kounavis, F. Berry, 2005).
        for word in words {
            let bytes = (self.0 ^ u64::from_le_bytes(*word)).to_le_bytes();
            let tables = TABLES.iter().rev().zip(bytes);
            self.0 = tables.fold(0, |sum, (table, byte)| sum ^ table[usize::from(byte)]);
        }
        for byte in rest {
            self.0 = self.0 >> 8 ^ TABLES[0][usize::from(self.0.to_le_bytes()[0] ^ byte)];
        }
    }

    pub(super) fn get(self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_catalogue() {
        let mut checksum = Checksum::new();
        checksum.add(b"123456789");
        assert_eq!(checksum.get(), 0x995d_c9bb_df19_39fa);
    }

    #[test]
    fn it_does_not_depend_on_the_parts() {
        let bytes: Vec<u8> = (0..100).collect();
        let of = |part: usize| {
            let mut checksum = Checksum::new();
            bytes.chunks(part).for_each(|part| checksum.add(part));
            checksum.get()
        };
        assert!((2..100).all(|part| of(part) == of(1)));
    }
}
