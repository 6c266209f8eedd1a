//! A faulty network between a test and a server: a TCP proxy on 127.0.0.1.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the network does to traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Passes everything on.
    Fine,
    /// Drops everything on existing connections. New ones work.
    LosesConnections,
    /// Drops everything. Connections are accepted.
    LosesAll,
    /// Drops the server's answers: it carries out requests without a reply.
    LosesAnswers,
    /// Passes everything on after this delay.
    Slow(Duration),
    /// Answers with these bytes instead of the server.
    Garbage(&'static [u8]),
}

/// A proxy in front of a server. Its threads end with the test process.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: u16,
    network: Mutex<Network>,
    /// The number of connections so far.
    accepted: AtomicU64,
    /// Connections with a lower number are lost.
    lost: AtomicU64,
    decisions: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of the port `server`.
    ///
    /// # Panics
    /// If no port is free.
    pub fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            server,
            network: Mutex::new(Network::Fine),
            accepted: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            decisions: AtomicU64::new(0),
        });
        let proxy = Proxy { port, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                Shared::connect(&shared, &client, number);
            }
        });
        proxy
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, as the URL of a Redis server.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sets the behaviour of the network from now on.
    pub fn set(&self, network: Network) {
        if network == Network::LosesConnections {
            self.shared.lost.store(self.connections(), Ordering::SeqCst);
        }
        *self.shared.network() = network;
    }

    /// The number of connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Script calls that clients have sent so far, whatever became of them.
    pub fn decisions(&self) -> u64 {
        self.shared.decisions.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If the server is unreachable, closes the client's connection.
    fn connect(shared: &Arc<Shared>, client: &TcpStream, number: u64) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server)) else { return };
        let both = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
        let (Some((from, to)), Some((back_to, back_from))) = (both(), both()) else { return };
        for stream in [client, &server] {
            // Nagle's delay would look like one of the server.
            let _ = stream.set_nodelay(true);
        }
        let there = Arc::clone(shared);
        std::thread::spawn(move || there.forward(from, to, number));
        let back = Arc::clone(shared);
        std::thread::spawn(move || back.backward(back_from, back_to, number));
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream, number: u64) {
        let mut buffer = [0; 16_384];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..read];
            let decisions = bytes.windows(7).filter(|word| word == b"EVALSHA").count();
            self.decisions.fetch_add(decisions as u64, Ordering::SeqCst);
            let network = *self.network();
            let passed_on = match network {
                _ if self.is_lost(number) => continue,
                Network::LosesAll => continue,
                Network::Garbage(garbage) => from.write_all(garbage),
                Network::Slow(delay) => {
                    let due = Instant::now() + delay;
                    // Until it is due or the behaviour changes.
                    while Instant::now() < due && *self.network() == network {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    to.write_all(bytes)
                }
                Network::Fine | Network::LosesConnections | Network::LosesAnswers => to.write_all(bytes),
            };
            if passed_on.is_err() {
                break;
            }
        }
        // The other direction may be waiting.
        let _ = to.shutdown(Shutdown::Both);
    }

    fn backward(&self, mut from: TcpStream, mut to: TcpStream, number: u64) {
        let mut buffer = [0; 16_384];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let swallowed =
                self.is_lost(number) || matches!(*self.network(), Network::LosesAll | Network::LosesAnswers);
            if !swallowed && to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        if !self.is_lost(number) {
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    fn is_lost(&self, number: u64) -> bool {
        number < self.lost.load(Ordering::SeqCst)
    }
}
