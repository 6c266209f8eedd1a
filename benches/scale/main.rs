//! Measures what many processes, keys and nodes cost: `cargo run --release -p scale [-- SECTION..]`
//! prints the tables of docs/scale.md and draws docs/scale.svg. The sections are `node`, `cluster`,
//! `fleet`, `memory`, `plan`; without one, all run. `plan` needs `node` and `fleet`.
//!
//! A server's work is measured in its processor time, which other load on the machine hardly
//! changes. Sections about many processes run on virtual time: 100 backends, each with its own
//! connections, leases and denial cache, stand for them. One real server decides.

#![allow(clippy::cast_precision_loss, reason = "figures for a table: a mean needs no 53 bits")]

#[path = "../../replay/src/chart.rs"]
#[allow(dead_code, reason = "a chart needs some of it")]
mod chart;
mod cluster;
#[path = "../../replay/src/escape.rs"]
#[allow(dead_code, reason = "the chart needs one of two")]
mod escape;
mod fleet;
mod judge;
mod load;
mod memory;
mod node;
#[path = "../../tests/support/oracle.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own, of which a part is enough here")]
mod oracle;
mod picture;
mod plan;
#[path = "../../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own, of which a part is enough here")]
mod server;
mod simulation;
mod traffic;
mod usage;

use std::path::Path;

use simulation::Simulated;

fn main() {
    let sections: Vec<String> = std::env::args().skip(1).collect();
    let wants = |section: &str| sections.is_empty() || sections.iter().any(|wanted| wanted == section);
    let nodes = if wants("node") { node::measure() } else { Vec::new() };
    if wants("cluster") {
        cluster::measure();
    }
    if wants("memory") {
        memory::measure();
    }
    if wants("fleet") {
        let simulated = simulation::run();
        draw(&simulated);
        if wants("plan") && !nodes.is_empty() {
            plan::print(&nodes, &simulated);
        }
    }
}

fn draw(simulated: &Simulated) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scale.svg");
    std::fs::write(&path, picture::draw(simulated)).expect("docs can be written");
    println!("\nThe curves are in docs/scale.svg.");
}

/// A heading and the head of a table in Markdown. The first column is text, the others are numbers.
fn table(heading: &str, columns: &[&str]) {
    println!("\n## {heading}\n\n| {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len() - 1));
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}
