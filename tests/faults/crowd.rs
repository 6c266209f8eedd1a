//! The processes, seen from outside: started together, and collected when they end.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::namespace::Namespace;
use crate::worker::Record;

const PROCESSES: usize = 8;

/// Processes that call functions whose limits they share.
pub(crate) struct Crowd(Vec<Process>);

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Crowd {
    /// Starts them, in a network namespace if given, and waits until the server decides for all.
    pub(crate) fn start(url: &str, lease: bool, namespace: Option<&Namespace>) -> Crowd {
        let own = std::env::current_exe().expect("the program has a path");
        let start = |_| {
            let mut command = match namespace {
                Some(namespace) => namespace.command(&own),
                None => Command::new(&own),
            };
            command.args(["worker", url]).args(lease.then_some("lease"));
            // It ends when its input does, at the latest with this process.
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process starts");
            let output = BufReader::new(child.stdout.take().expect("it is piped"));
            Process { child, output }
        };
        let mut processes: Vec<Process> = (0..PROCESSES).map(start).collect();
        for process in &mut processes {
            assert_eq!(process.line().as_deref(), Some("ready"), "a process does not start");
        }
        Crowd(processes)
    }

    /// Ends them and returns each one's record.
    pub(crate) fn end(mut self) -> Vec<Record> {
        for process in &mut self.0 {
            drop(process.child.stdin.take());
        }
        self.0.into_iter().map(Process::record).collect()
    }
}

impl Process {
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("a process writes text");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    fn record(mut self) -> Record {
        let mut record = Record::default();
        while let Some(line) = self.line() {
            record.add(&line);
        }
        assert!(self.child.wait().expect("a process ends").success(), "a process failed");
        record
    }
}
