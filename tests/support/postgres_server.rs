//! A private, real PostgreSQL server for tests: on a free port, in a temporary folder, without
//! `fsync`, ended with the test process. PostgreSQL refuses to run as root: then the user `postgres`
//! runs it, whom the package creates.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::free_port;

/// Removes its folder, and what runs in it, when its standard input closes: at the latest when the
/// test process ends for any reason.
const FOLDER: &str = r#"
folder=$(mktemp -d) || exit 1
[ "$(id -u)" -ne 0 ] || chown postgres "$folder"
echo "$folder"
read -r _
for pid in "$folder"/*/postmaster.pid; do
    [ ! -f "$pid" ] || kill -9 -- "-$(head -1 "$pid")" 2>/dev/null || kill -9 "$(head -1 "$pid")" 2>/dev/null
done
[ ! -f "$folder/pgbouncer.pid" ] || kill -9 "$(cat "$folder/pgbouncer.pid")" 2>/dev/null
# Backends end when they notice that the postmaster has gone.
for _ in 1 2 3 4 5; do rm -rf "$folder" && break; sleep 0.2; done
"#;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// A running PostgreSQL server with a user `postgres` that needs no password. Dropping it kills the
/// server.
pub struct PostgresServer {
    port: u16,
    data: PathBuf,
    server: Mutex<Option<Server>>,
    folder: Arc<Folder>,
}

/// A PgBouncer in front of a server, pooling by transactions.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    process: Child,
}

/// The postmaster, a process group of its own.
struct Server {
    child: Child,
}

struct Folder {
    path: PathBuf,
    watchdog: Child,
    // Closed first.
    stdin: Option<ChildStdin>,
}

impl PostgresServer {
    /// Starts a server.
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not start: these tests do not pass without it.
    pub fn start() -> PostgresServer {
        PostgresServer::start_with(&[])
    }

    /// Starts a server with more settings, such as `max_connections=5`.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_with(settings: &[&str]) -> PostgresServer {
        PostgresServer::start_after(settings, |_| ())
    }

    /// Starts a server that speaks TLS too, with a certificate and its key as PEM.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start_with_tls((certificate, key): &(String, String)) -> PostgresServer {
        PostgresServer::start_after(&["ssl = on"], |data| {
            let script = r#"umask 077; printf '%s' "$1" >"$0""#;
            for (name, text) in [("server.crt", certificate), ("server.key", key)] {
                succeed(as_user("sh").args(["-c", script]).arg(data.join(name)).arg(text));
            }
        })
    }

    fn start_after(settings: &[&str], prepare: impl FnOnce(&Path)) -> PostgresServer {
        let folder = Arc::new(Folder::new());
        let data = folder.path.join("data");
        let mut initdb = as_user(&program("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-N", "--no-instructions"]);
        succeed(initdb.args(["--encoding=UTF8", "--locale=C"]));
        let lines: Vec<&str> = [
            "fsync = off",
            "max_connections = 60",
            "wal_level = replica",
            "max_wal_senders = 4",
            "shared_buffers = 32MB",
            "autovacuum_naptime = 5s",
            "log_min_messages = panic",
        ]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
        append(&data, &lines);
        prepare(&data);
        PostgresServer::run(folder, data)
    }

    /// Starts a standby that streams from this server.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_standby(&self) -> PostgresServer {
        let data = self.folder.path.join(format!("standby-{}", free_port()));
        let mut backup = as_user(&program("pg_basebackup"));
        backup.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        ]);
        succeed(backup.arg("-D").arg(&data));
        PostgresServer::run(Arc::clone(&self.folder), data)
    }

    fn run(folder: Arc<Folder>, data: PathBuf) -> PostgresServer {
        for _ in 0..5 {
            let port = free_port();
            // Another process may take the port before the server does.
            if let Some(server) = Server::start(&data, port) {
                return PostgresServer { port, data, server: Mutex::new(Some(server)), folder };
            }
        }
        panic!("PostgreSQL does not start in {}", data.display());
    }

    /// A server shared by the tests of one binary.
    pub fn shared() -> &'static PostgresServer {
        static SHARED: OnceLock<PostgresServer> = OnceLock::new();
        SHARED.get_or_init(PostgresServer::start)
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, with its user.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The folder of its unix socket.
    pub fn socket(&self) -> String {
        self.data.display().to_string()
    }

    /// Runs SQL, and returns the columns of all rows as text.
    ///
    /// # Panics
    /// If it is unreachable, or the SQL fails.
    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        sql_at(&self.url(), sql)
    }

    /// Kills it, like a crash.
    pub fn kill(&self) {
        drop(self.server().take());
    }

    /// Starts it again on the same port, with what it had on disk.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&self) {
        self.kill();
        // It does not start while a process of the one before it has not noticed its end.
        let until = Instant::now() + START;
        let started = std::iter::repeat_with(|| Server::start(&self.data, self.port));
        let started = started.take_while(|_| Instant::now() < until).flatten().next();
        *self.server() = Some(started.expect("PostgreSQL starts again"));
    }

    /// Makes a standby a primary.
    ///
    /// # Panics
    /// If it does not become one.
    pub fn promote(&self) {
        succeed(as_user(&program("pg_ctl")).args(["promote", "-w", "-D"]).arg(&self.data));
    }

    /// Stops all its processes: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let server = self.server();
        server.as_ref().expect("the server is running").signal(signal);
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a PgBouncer in front of it.
    ///
    /// # Panics
    /// If PgBouncer is not installed or does not start.
    pub fn pgbouncer(&self) -> PgBouncer {
        let pgbouncer =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| PathBuf::from(path).exists());
        let pgbouncer =
            pgbouncer.expect("PgBouncer is not installed, and these tests need a real one: apt-get install pgbouncer");
        let port = free_port();
        let path = self.folder.path.join("pgbouncer.ini");
        // With `any`, all clients are the user of the database's line.
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n\
             max_client_conn = 200\nunix_socket_dir =\npidfile = {}\n",
            self.port,
            self.folder.path.join("pgbouncer.pid").display()
        );
        std::fs::write(&path, configuration).expect("the folder is writable");
        let mut command = as_user(pgbouncer);
        let process = command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = process.spawn().expect("PgBouncer runs");
        let bouncer = PgBouncer { port, process };
        wait_for(&bouncer.url(), || true);
        bouncer
    }
}

impl PgBouncer {
    /// Its address, with a user.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Nothing is left to do if it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs SQL at a server, and returns the columns of all rows as text.
///
/// # Panics
/// If it is unreachable, or the SQL fails.
pub fn sql_at(url: &str, sql: &str) -> Vec<Vec<String>> {
    try_sql_at(url, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// Runs SQL at a server.
///
/// # Errors
/// If it is unreachable, or the SQL fails.
///
/// # Panics
/// Without threads.
pub fn try_sql_at(url: &str, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    // On a thread of its own: the caller's may be a runtime's.
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = connect(url).await?;
            let messages = client.simple_query(sql).await?;
            let rows = messages.iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|place| row.get(place).unwrap_or_default().to_owned()).collect())
                }
                _ => None,
            });
            Ok(rows.collect())
        })
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("it does not panic"))
}

/// A separate connection, on the current runtime.
///
/// # Errors
/// If the server is unreachable.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Waits until a server answers. Gives up when `runs` says no.
fn wait_for(url: &str, mut runs: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + START;
    while Instant::now() < until && runs() {
        if try_sql_at(url, "SELECT 1").is_ok() {
            return runs();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A program of the newest version that is installed.
fn program(name: &str) -> String {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin").join(name)).collect())
        .unwrap_or_default();
    versions.retain(|path| path.exists());
    versions.sort();
    if let Some(path) = versions.pop() {
        return path.display().to_string();
    }
    let installed = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(
        installed.is_ok_and(|status| status.success()),
        "PostgreSQL is not installed, and these tests need a real one: apt-get install postgresql"
    );
    name.to_owned()
}

/// A command, as the user `postgres` if this is root.
fn as_user(program: &str) -> Command {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    let mut command;
    if id.stdout.starts_with(b"0\n") {
        command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
    } else {
        command = Command::new(program);
    }
    // The user may not enter this one.
    command.current_dir("/");
    command
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the command runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Adds lines to `postgresql.conf`.
fn append(data: &Path, lines: &[&str]) {
    let script = r#"printf '%s\n' "$@" >>"$0""#;
    succeed(as_user("sh").args(["-c", script]).arg(data.join("postgresql.conf")).args(lines));
}

impl Server {
    fn start(data: &Path, port: u16) -> Option<Server> {
        let mut command = as_user(&program("postgres"));
        command.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k"]).arg(data);
        command.process_group(0);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Server { child: child.expect("the command runs") };
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let mut runs = || server.child.try_wait().is_ok_and(|ended| ended.is_none());
        // Another server may have the port: then ours has ended by now.
        wait_for(&url, &mut runs).then_some(server)
    }

    /// To the postmaster and to its children, which lead groups of their own.
    fn signal(&self, signal: &str) {
        let postmaster = self.child.id().to_string();
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster]).output().expect("ps runs");
        let children = String::from_utf8_lossy(&children.stdout).into_owned();
        // The postmaster first, so that it starts no more. A child may have ended.
        let mut kill = Command::new("kill");
        let _ = kill.args([signal, &postmaster]).args(children.split_whitespace()).stderr(Stdio::null()).status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("-KILL");
        // Nothing is left to do if the wait fails.
        let _ = self.child.wait();
    }
}

impl Folder {
    fn new() -> Folder {
        let mut watchdog = Command::new("sh")
            .args(["-c", FOLDER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut path = String::new();
        let output = watchdog.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut path).expect("the watchdog says the folder");
        let stdin = watchdog.stdin.take();
        Folder { path: PathBuf::from(path.trim()), watchdog, stdin }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Nothing is left to do if the wait fails.
        let _ = self.watchdog.wait();
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresServer").field("port", &self.port).finish_non_exhaustive()
    }
}
