//! A server's resource usage so far, as it reports it.

use crate::server::RedisServer;

/// Totals since the server's start, or what was added between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time of all its threads, in microseconds. Redis reads it with `getrusage`: the
    /// figure of `/proc/PID/stat`, not rounded to 10 ms.
    pub(crate) cpu: f64,
    /// Calls of the script.
    pub(crate) scripts: u64,
    /// Bytes that clients sent to it.
    pub(crate) input: u64,
    /// Bytes that it sent to clients.
    pub(crate) output: u64,
    /// Bytes of memory in use.
    pub(crate) memory: u64,
}

impl Usage {
    pub(crate) fn of(server: &RedisServer) -> Usage {
        let everything: String =
            redis::cmd("INFO").arg("all").query(&mut server.connection()).expect("the server is running");
        let field = |name: &str| everything.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = |name: &str| field(name).expect("a field of INFO").trim().parse::<u64>().expect("a number");
        let seconds = |name: &str| field(name).expect("a field of INFO").trim().parse::<f64>().expect("seconds");
        // Without the first call, which fails because the server does not have the script yet.
        let calls = |line: &str| {
            let part = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)?.parse::<u64>().ok());
            Some(part("calls=")? - part("failed_calls=")?)
        };
        Usage {
            cpu: (seconds("used_cpu_user") + seconds("used_cpu_sys")) * 1e6,
            scripts: field("cmdstat_evalsha").map_or(0, |line| calls(line).expect("a number of calls")),
            input: number("total_net_input_bytes"),
            output: number("total_net_output_bytes"),
            memory: number("used_memory"),
        }
    }

    pub(crate) fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu - earlier.cpu,
            scripts: self.scripts - earlier.scripts,
            input: self.input - earlier.input,
            output: self.output - earlier.output,
            memory: self.memory.saturating_sub(earlier.memory),
        }
    }
}

/// Forgets all keys.
pub(crate) fn forget_all(server: &RedisServer) {
    redis::cmd("FLUSHALL").exec(&mut server.connection()).expect("the server is running");
}
