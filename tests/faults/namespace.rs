//! A network between this machine and a part of it, over which packets can be lost: a network namespace of Linux, joined by a
//! pair of virtual devices. Only root can make one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// This machine, seen from there, and the other way round.
const OUTSIDE: &str = "10.231.71.1";
const INSIDE: &str = "10.231.71.2";
/// An address that no device has: what is sent to it is lost.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A network namespace. It lives as long as a process does that ends with this one, however that ends, and takes the devices
/// along.
pub(crate) struct Namespace {
    holder: Child,
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
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "echo inside; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.stderr(Stdio::null()).spawn().map_err(|error| format!("no `unshare`: {error}"))?;
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().expect("it is piped"));
        output.read_line(&mut said).map_err(|error| error.to_string())?;
        // A device's name has 15 letters at the most.
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

    /// Where a server has to listen to be reached from there.
    pub(crate) fn address() -> &'static str {
        OUTSIDE
    }

    /// A program that runs there.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    fn ip(&self) -> Command {
        self.command(Path::new("ip"))
    }

    /// From now on packets are lost without a word.
    pub(crate) fn lose(&self, lost: Lost) {
        self.lead(lost, NOWHERE);
    }

    /// From now on packets arrive again, those of connections that there are too.
    pub(crate) fn heal(&self, lost: Lost) {
        let shown = match lost {
            Lost::Requests => run(Command::new("ip").args(["-brief", "link", "show", &self.device])),
            Lost::Answers => run(self.ip().args(["-brief", "link", "show", "eth0"])),
        };
        // A name, a state, and the address.
        let shown = shown.expect("the namespace is ours");
        self.lead(lost, shown.split_whitespace().nth(2).expect("the device has an address"));
    }

    /// Says which device has the address that the lost packets are for.
    fn lead(&self, lost: Lost, device: &str) {
        let (mut ip, to, over) = match lost {
            Lost::Requests => (self.ip(), OUTSIDE, "eth0"),
            Lost::Answers => (Command::new("ip"), INSIDE, self.device.as_str()),
        };
        let led = ip.args(["neighbour", "replace", to, "lladdr", device, "dev", over, "nud", "permanent"]);
        run(led).expect("the namespace is ours");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // Nothing is left to do where it cannot be waited for.
        let _ = self.holder.wait();
    }
}

/// What a command says, or why it failed.
fn run(command: &mut Command) -> Result<String, String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{} cannot be run: {error}", command.get_program().display())),
    }
}
