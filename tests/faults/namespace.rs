//! A network between this machine and a part of it, over which packets can be lost: a network namespace of Linux, joined by a
//! pair of virtual devices. Only root can make one.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// This machine, seen from there, and the other way round.
const OUTSIDE: &str = "10.231.71.1";
const INSIDE: &str = "10.231.71.2";
/// An address that no device has: what is sent to it is lost.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A network namespace, gone when it is dropped.
pub(crate) struct Namespace {
    name: String,
    device: String,
}

/// What gets lost.
#[derive(Clone, Copy)]
pub(crate) enum Lost {
    /// What is sent from the namespace.
    Requests,
    /// What is sent into it: what was asked for is done, and nobody is told.
    Answers,
}

impl Namespace {
    /// Makes one, or says why it cannot be made.
    pub(crate) fn new() -> Result<Namespace, String> {
        let id = std::process::id();
        // A device's name has 15 letters at the most.
        let namespace = Namespace { name: format!("faults-{id}"), device: format!("faults{id}") };
        let (name, device) = (namespace.name.as_str(), namespace.device.as_str());
        ip(&["netns", "add", name])?;
        ip(&["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["address", "add", &format!("{OUTSIDE}/30"), "dev", device])?;
        ip(&["link", "set", device, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{INSIDE}/30"), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        Ok(namespace)
    }

    /// Where a server has to listen to be reached from there.
    pub(crate) fn address() -> &'static str {
        OUTSIDE
    }

    /// A program that runs there.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// From now on packets are lost without a word.
    pub(crate) fn lose(&self, lost: Lost) {
        self.lead(lost, NOWHERE);
    }

    /// From now on packets arrive again, those of connections that there are too.
    pub(crate) fn heal(&self, lost: Lost) {
        let device = match lost {
            Lost::Requests => fs::read_to_string(format!("/sys/class/net/{}/address", self.device)),
            Lost::Answers => {
                let shown = self.command(Path::new("cat")).arg("/sys/class/net/eth0/address").output();
                shown.map(|shown| String::from_utf8_lossy(&shown.stdout).into_owned())
            }
        };
        self.lead(lost, device.expect("the device has an address").trim());
    }

    /// Says which device has the address that the lost packets are for.
    fn lead(&self, lost: Lost, device: &str) {
        let led = match lost {
            Lost::Requests => ip(&[
                "-n",
                &self.name,
                "neighbour",
                "replace",
                OUTSIDE,
                "lladdr",
                device,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ]),
            Lost::Answers => {
                ip(&["neighbour", "replace", INSIDE, "lladdr", device, "dev", &self.device, "nud", "permanent"])
            }
        };
        led.expect("the namespace is ours");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The devices go with it. What was never made cannot be removed.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let run = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    match run {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("`ip` cannot be run: {error}")),
    }
}
