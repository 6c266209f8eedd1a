//! Real proxies in front of a test's server: the system's nginx, haproxy and caddy.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ratelimit_tests::free_port;

/// The proxy runs as a child of a shell. The shell kills it when its standard input closes, at the
/// latest when the test process ends.
const WATCHDOG: &str = r#"
"$@" >"$LOG" 2>&1 </dev/null &
server=$!
exec 3<&0
(read -r _ <&3; kill -9 "$server" 2>/dev/null) &
wait "$server" 2>/dev/null
"#;

/// How long a proxy may take to start.
const START: Duration = Duration::from_secs(20);

/// A running proxy. Dropping it ends it.
pub(crate) struct Gateway {
    watchdog: Child,
    directory: PathBuf,
    port: u16,
}

impl Gateway {
    /// nginx with the lines `server` in its only `server` block and the lines `http` around it.
    pub(crate) fn nginx(server: &str, http: &str) -> Gateway {
        Gateway::start("nginx", "nginx-light", |directory, port| {
            let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths = paths.map(|name| format!("{name}_temp_path {directory}/{name};")).join(" ");
            let text = format!(
                "daemon off; master_process off; pid {directory}/pid; error_log stderr;
                events {{ worker_connections 512; }}
                http {{
                    access_log off; client_max_body_size 100m; {paths} {http}
                    server {{ listen 127.0.0.1:{port}; {server} }}
                }}"
            );
            let file = write(directory, "nginx.conf", &text);
            (vec!["-p".into(), directory.into(), "-e".into(), "stderr".into(), "-c".into(), file], None)
        })
    }

    /// haproxy with these lines in its `backend`.
    pub(crate) fn haproxy(backend: &str) -> Gateway {
        Gateway::start("haproxy", "haproxy", |directory, port| {
            let text = format!(
                "defaults\n mode http\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
                 frontend front\n bind 127.0.0.1:{port}\n default_backend app\n\
                 backend app\n{backend}\n"
            );
            (vec!["-db".into(), "-f".into(), write(directory, "haproxy.cfg", &text)], None)
        })
    }

    /// caddy with these lines in its site.
    pub(crate) fn caddy(site: &str) -> Gateway {
        Gateway::start("caddy", "caddy", |directory, port| {
            let text = format!("{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n{site}\n}}\n");
            let file = write(directory, "Caddyfile", &text);
            (
                vec!["run".into(), "--adapter".into(), "caddyfile".into(), "--config".into(), file],
                Some(directory.into()),
            )
        })
    }

    fn start(name: &str, package: &str, configure: impl Fn(&str, u16) -> (Vec<String>, Option<String>)) -> Gateway {
        // Another process may take the port before the proxy does.
        for _ in 0..5 {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let directory = std::env::temp_dir().join(format!("ratelimit-{name}-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let port = free_port();
            let (arguments, home) = configure(directory.to_str().unwrap(), port);
            let mut command = Command::new("sh");
            command.args(["-c", WATCHDOG, "gateway", &program(name, package)]).args(arguments);
            command.env("LOG", directory.join("log")).stdin(Stdio::piped()).stdout(Stdio::null());
            if let Some(home) = home {
                command.env("HOME", home);
            }
            let mut gateway = Gateway { watchdog: command.spawn().unwrap(), directory, port };
            if gateway.is_up() {
                return gateway;
            }
            eprintln!("{}", std::fs::read_to_string(gateway.directory.join("log")).unwrap_or_default());
        }
        panic!("{name} does not start");
    }

    fn is_up(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < START {
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if self.watchdog.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Closing the shell's input makes it kill the proxy.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Debian installs servers outside a user's search path.
fn program(name: &str, package: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    let found =
        found.unwrap_or_else(|| panic!("{name} is not installed, and these tests need it: apt-get install {package}"));
    found.to_str().unwrap().to_owned()
}

fn write(directory: &str, name: &str, text: &str) -> String {
    let file = Path::new(directory).join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}
