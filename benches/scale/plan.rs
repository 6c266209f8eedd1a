//! How many server cores a load needs, from the other sections' figures.

use crate::fleet::Choice;
use crate::node::{Node, thousands};
use crate::simulation::{RATES, Simulated, usual};
use crate::{row, table};

/// The plan keeps each node busy for half of its time.
const BUSY: f64 = 0.5;

pub(crate) fn print(nodes: &[Node], simulated: &Simulated) {
    let named = |name: &str| nodes.iter().find(|node| node.name == name).expect("a case of that name");
    // A call that shares a round trip with no other costs the most.
    let plain = named("256 tasks, no batches").cpu;
    let leasing = named("leases, of one permit each, no batches").cpu_of_script;
    table(
        "Nodes that are busy for half of their time: 100 processes, exponent 1.0, 100 per 1 s",
        &["calls a second", "every call asks", "denial cache", "leases"],
    );
    let cell = |load: f64| format!("{:.0} ({:.1} % of a core)", (load / BUSY).ceil().max(1.0), load * 100.0);
    for rate in RATES {
        let asked = |choice| simulated.asked(usual(), choice, 1.0, rate);
        let core = |share: f64, cost: f64| rate * share * cost / 1e6;
        row(&[
            thousands(rate),
            cell(core(1.0, plain)),
            cell(core(asked(Choice::DenialCache), plain)),
            cell(core(asked(Choice::Leases), leasing)),
        ]);
    }
}
