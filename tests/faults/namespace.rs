//! A lossy network between this machine and a part of it: a Linux network namespace, joined by a
//! pair of virtual devices. Only root can create one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The addresses of this machine, seen from the namespace, and of the namespace, seen from here.
const OUTSIDE: &str = "10.231.71.1";
const INSIDE: &str = "10.231.71.2";
/// An address of no device: packets to it are lost.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A network namespace. It is held by a process that ends with this one, however this one ends, and
/// takes the devices along.
pub(crate) struct Namespace {
    holder: Child,
    device: String,
}

/// The direction in which packets are lost.
#[derive(Clone, Copy)]
pub(crate) enum Lost {
    /// Packets from the namespace.
    Requests,
    /// Packets into it: requests are carried out without a reply.
    Answers,
}

impl Namespace {
    /// Creates a namespace, or returns why it cannot.
    pub(crate) fn new() -> Result<Namespace, String> {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "echo inside; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.stderr(Stdio::null()).spawn().map_err(|error| format!("no `unshare`: {error}"))?;
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().expect("it is piped"));
        output.read_line(&mut said).map_err(|error| error.to_string())?;
        // A device name has at most 15 letters.
        let namespace = Namespace { device: format!("faults{}", std::process::id()), holder };
        if said.is_empty() {
            return Err("`unshare --net` is not allowed: be root".to_owned());
        }
        let (device, there) = (namespace.device.as_str(), namespace.holder.id().to_string());
        run(Command::new("ip").args(["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", &there]))?;
        run(Command::new("ip").args(["address", "add", &format!("{OUTSIDE}/30"), "dev", device]))?;
        run(Command::new("ip").args(["link", "set", device, "up"]))?;
        run(namespace.ip().args(["address", "add", &format!("{INSIDE}/30"), "dev", "eth0"]))?;
        run(namespace.ip().args(["link", "set", "eth0", "up"]))?;
        Ok(namespace)
    }

    /// The address on which a server must listen to be reached from there.
    pub(crate) fn address() -> &'static str {
        OUTSIDE
    }

    /// A program that runs in the namespace.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    fn ip(&self) -> Command {
        self.command(Path::new("ip"))
    }

    /// Drops packets silently from now on.
    pub(crate) fn lose(&self, lost: Lost) {
        self.set_neighbour(lost, NOWHERE);
    }

    /// Delivers packets again, including those of existing connections.
    pub(crate) fn heal(&self, lost: Lost) {
        let shown = match lost {
            Lost::Requests => run(Command::new("ip").args(["-brief", "link", "show", &self.device])),
            Lost::Answers => run(self.ip().args(["-brief", "link", "show", "eth0"])),
        };
        // A name, a state, and the address.
        let shown = shown.expect("the namespace is ours");
        self.set_neighbour(lost, shown.split_whitespace().nth(2).expect("the device has an address"));
    }

    /// Sets the link-layer address to which the affected packets go.
    fn set_neighbour(&self, lost: Lost, device: &str) {
        let (mut ip, to, over) = match lost {
            Lost::Requests => (self.ip(), OUTSIDE, "eth0"),
            Lost::Answers => (Command::new("ip"), INSIDE, self.device.as_str()),
        };
        let set = ip.args(["neighbour", "replace", to, "lladdr", device, "dev", over, "nud", "permanent"]);
        run(set).expect("the namespace is ours");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Nothing is left to do if the wait fails.
        let _ = self.holder.wait();
    }
}

/// The output of a command, or the reason for its failure.
fn run(command: &mut Command) -> Result<String, String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{} cannot be run: {error}", command.get_program().display())),
    }
}
