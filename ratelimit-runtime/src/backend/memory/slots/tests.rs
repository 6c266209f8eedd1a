//! A table holds what a map holds.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::state::Words;
use super::*;

proptest! {
    #[test]
    fn it_holds_what_a_map_holds(
        steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0..40), 1..400),
    ) {
        // All in a few runs, one of which wraps around the end of the table.
        let fingerprint = |key: u64| if key < 20 { u64::MAX - key } else { (key - 19) << 58 };
        let (mut slots, mut map) = (Slots::<Words<1>, 4>::new(), HashMap::new());
        for (number, (insert, key, shrink)) in (1..).zip(steps) {
            let fingerprint = fingerprint(key);
            match (insert, slots.find(fingerprint)) {
                (true, None) => slots.insert(fingerprint, Words([number])),
                (true, Some(_)) => *slots.get_mut(fingerprint).unwrap() = Words([number]),
                (false, Some(place)) => slots.remove(place),
                (false, None) => {}
            }
            if insert { map.insert(fingerprint, number); } else { map.remove(&fingerprint); }
            if shrink == 0 {
                slots.shrink();
            }
            prop_assert_eq!(slots.len(), map.len());
            prop_assert!(slots.get(1).is_none());
            let places = (0..slots.lines()).flat_map(Slots::<Words<1>, 4>::places_of);
            prop_assert_eq!(places.filter(|place| slots.at(*place).is_some()).count(), map.len());
            for (fingerprint, number) in &map {
                prop_assert_eq!(slots.get(*fingerprint).map(|words| words.0), Some([*number]));
            }
        }
    }
}

#[test]
fn parts_of_a_table_are_all_of_it() {
    let mut slots = Slots::<Words<1>, 4>::new();
    let mut random = 0_u64;
    // High fingerprints only, so that the last line overflows into the first ones.
    for number in 0..3_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fingerprint = if number % 3 == 0 { random | 1 } else { u64::MAX - number };
        slots.insert(fingerprint, Words([number]));
    }
    for lines in [1, 3, 64, 1_000_000] {
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = slots.each_from(from, lines, |fingerprint, _| found.push(fingerprint));
        }
        found.sort_unstable();
        assert_eq!(found.len(), 3_000, "{lines}");
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
