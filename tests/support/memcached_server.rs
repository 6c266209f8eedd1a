//! A private, real Memcached server for tests: on a free port, ended with the test process.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::free_port;

/// The server runs as a child of a shell. The shell kills it when its standard input closes, at the
/// latest when the test process ends for any reason. The shell ends with the server.
const WATCHDOG: &str = r#"
memcached -u "$(id -un)" -U 0 "$@" >/dev/null 2>&1 </dev/null &
server=$!
echo "$server"
exec 3<&0
(read -r _ <&3; kill -9 "$server" 2>/dev/null) &
wait "$server" 2>/dev/null
"#;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);

/// A running `memcached`. Dropping it kills the server.
pub struct MemcachedServer {
    port: u16,
    options: Vec<String>,
    process: Mutex<Option<Process>>,
}

struct Process {
    watchdog: Child,
    server: String,
}

impl MemcachedServer {
    /// Starts a server.
    ///
    /// # Panics
    /// If `memcached` is not installed or does not start: these tests do not pass without one.
    pub fn start() -> MemcachedServer {
        MemcachedServer::start_with(&[])
    }

    /// Starts a server with more options, such as `-M`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_with(options: &[&str]) -> MemcachedServer {
        let installed = Command::new("memcached").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            installed.is_ok_and(|status| status.success()),
            "memcached is not installed, and these tests need a real one: apt-get install memcached"
        );
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = Process::start(port, &options) {
                return MemcachedServer { port, options, process: Mutex::new(Some(process)) };
            }
        }
        panic!("memcached does not start with {options:?}");
    }

    /// Starts a server on a unix socket, and no port.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_on_socket(path: &str) -> MemcachedServer {
        let options = vec!["-s".to_owned(), path.to_owned()];
        let process = Process::start(0, &options).expect("memcached starts");
        MemcachedServer { port: 0, options, process: Mutex::new(Some(process)) }
    }

    /// A server shared by the tests of one binary.
    pub fn shared() -> &'static MemcachedServer {
        static SHARED: OnceLock<MemcachedServer> = OnceLock::new();
        SHARED.get_or_init(MemcachedServer::start)
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}", self.port)
    }

    /// Sends commands, and returns what comes back until a line ends with `last`.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn ask(&self, commands: &str, last: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server is running");
        stream.set_read_timeout(Some(START)).expect("the timeout is not zero");
        stream.write_all(commands.as_bytes()).expect("the server reads");
        let (mut answer, mut buffer, end) = (Vec::new(), [0; 8_192], format!("{last}\r\n"));
        while !answer.ends_with(end.as_bytes()) {
            let read = stream.read(&mut buffer).expect("the server answers");
            assert!(read > 0, "the server has closed the connection");
            answer.extend_from_slice(&buffer[..read]);
        }
        answer
    }

    /// A figure of `stats`, such as `cmd_set`.
    ///
    /// # Panics
    /// If there is none.
    pub fn figure(&self, name: &str) -> u64 {
        let stats = String::from_utf8(self.ask("stats\r\n", "END")).expect("it is text");
        let prefix = format!("STAT {name} ");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix)).expect("there is such a figure");
        line.parse().expect("it is a number")
    }

    /// Kills it, like a crash.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&self) {
        self.kill();
        *self.process() = Some(Process::start(self.port, &self.options).expect("memcached starts again"));
    }

    /// Suspends it: connections stay open, and nothing is answered.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn freeze(&self) {
        self.signal("-STOP");
        let until = Instant::now() + START;
        // The signal reaches its threads one after the other.
        while !self.is_stopped() {
            assert!(Instant::now() < until, "memcached does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let process = self.process();
        let server = &process.as_ref().expect("the server is running").server;
        let threads = std::fs::read_dir(format!("/proc/{server}/task")).expect("the server is running");
        threads.flatten().all(|thread| {
            let state = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        })
    }

    /// Resumes it.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process();
        let server = &process.as_ref().expect("the server is running").server;
        let sent = Command::new("kill").args([signal, server]).status().expect("kill runs");
        assert!(sent.success(), "kill {signal} {server}");
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemcachedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedServer").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Process {
    fn start(port: u16, options: &[String]) -> Option<Process> {
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "memcached"]);
        let socket = options.iter().skip_while(|option| *option != "-s").nth(1);
        if socket.is_none() {
            watchdog.args(["-p", &port.to_string(), "-l", "127.0.0.1"]);
        }
        let mut watchdog =
            watchdog.args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh runs");
        let mut server = String::new();
        let output = watchdog.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut server).expect("the watchdog says the server's id");
        let mut process = Process { watchdog, server: server.trim().to_owned() };
        let until = Instant::now() + START;
        while Instant::now() < until && process.is_alive() {
            let listens = match socket {
                Some(path) => UnixStream::connect(path).is_ok(),
                None => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            };
            if listens {
                // Another server may have the port: then ours has ended by now.
                std::thread::sleep(Duration::from_millis(5));
                return process.is_alive().then_some(process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    fn is_alive(&mut self) -> bool {
        self.watchdog.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing is left to do if the wait fails.
        let _ = self.watchdog.wait();
    }
}
