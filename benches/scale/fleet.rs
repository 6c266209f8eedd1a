//! A fleet on virtual time: many backends in this process. Each has its own connections, leases,
//! denial cache and circuit breaker, as a process would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ratelimit_runtime::backend::{Answer, Backend, Deadline, Outcome, Request};
use ratelimit_runtime::{BackendError, ExceededKind, Limit, OnBackendError, RateLimiter, RedisBackend, test_util};

use crate::judge::{Judge, Verdict};
use crate::server::RedisServer;
use crate::traffic::Traffic;
use crate::usage::{Usage, forget_all};

/// How the processes of a fleet decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Choice {
    /// The server decides every call.
    Exact,
    DenialCache,
    Leases,
    /// Each process keeps an equal share of the limit in memory.
    Share,
    /// The server is down, and `on_backend_error = local` gives each process the whole limit.
    Fallback,
}

impl Choice {
    pub(crate) const ALL: [Choice; 5] =
        [Choice::Exact, Choice::DenialCache, Choice::Leases, Choice::Share, Choice::Fallback];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Choice::Exact => "every call asks",
            Choice::DenialCache => "denial cache",
            Choice::Leases => "leases",
            Choice::Share => "local, a share each",
            Choice::Fallback => "local, the whole limit each",
        }
    }
}

/// The results of a fleet's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcomes {
    pub(crate) calls: u64,
    /// Calls of the script.
    pub(crate) asked: u64,
    /// Calls admitted from a lease.
    pub(crate) leased: u64,
    /// Calls denied without the server.
    pub(crate) denied_here: u64,
    pub(crate) verdict: Verdict,
}

/// A process's backend: the product's, with a count of the denials without the server. It names no
/// server, so that its denial cache is its own.
struct Process {
    redis: RedisBackend,
    denied_here: Arc<AtomicU64>,
}

impl Backend for Process {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let answer = self.redis.decide(request)?;
        // The server decides at whole microseconds. A cached denial is repeated at this process's
        // own time, which its fraction of a microsecond reveals.
        if matches!(answer.outcome, Outcome::Denied(_)) && !answer.now.as_nanos().is_multiple_of(1_000) {
            self.denied_here.fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer)
    }

    fn decide_later(&self, request: Request) {
        self.redis.decide_later(request);
    }

    fn deadline(&self) -> Deadline {
        self.redis.deadline()
    }

    fn denial_cache(&self) -> bool {
        self.redis.denial_cache()
    }
}

/// A server and the path of its socket.
pub(crate) struct Site {
    server: RedisServer,
    socket: String,
}

impl Site {
    pub(crate) fn new() -> Site {
        let (server, socket) = RedisServer::start_with_socket();
        Site { server, socket }
    }

    /// Decides the calls one after the other, at their virtual times.
    pub(crate) fn run(&self, choice: Choice, limit: Limit, traffic: Traffic) -> Outcomes {
        forget_all(&self.server);
        // A whole day, so that fixed windows begin with the calls.
        let clock = test_util::pause_at(SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400));
        let denied_here = Arc::new(AtomicU64::new(0));
        let fleet: Vec<RateLimiter> = (0..traffic.processes)
            .map(|process| self.process(choice, limit, process, &traffic, &denied_here))
            .collect();
        let before = Usage::of(&self.server);
        let (mut judge, mut now) = (Judge::new(limit), Duration::ZERO);
        let mut calls_of = vec![0_u64; traffic.processes];
        for call in traffic.calls() {
            calls_of[call.process] += 1;
            // A different fraction of a microsecond for each call of a process: see `Process`.
            let fraction = if choice == Choice::Leases { 1 + calls_of[call.process] % 999 } else { 0 };
            let at = call.at + Duration::from_nanos(fraction);
            clock.advance(at.saturating_sub(now));
            now = now.max(at);
            let decided = fleet[call.process].check(call.key, 1);
            if let Err(exceeded) = &decided {
                assert!(exceeded.kind() == ExceededKind::Limited, "{exceeded:?}");
            }
            judge.see(call.key, call.at, decided.is_ok());
        }
        let calls = traffic.calls as u64;
        let asked = Usage::of(&self.server).since(before).scripts;
        let denied_here = match choice {
            Choice::Exact | Choice::DenialCache => calls - asked,
            Choice::Leases => denied_here.load(Ordering::Relaxed),
            Choice::Share | Choice::Fallback => calls - judge.verdict.admitted,
        };
        let is_local = matches!(choice, Choice::Share | Choice::Fallback);
        let leased = if is_local { 0 } else { calls - asked - denied_here };
        Outcomes { calls, asked, leased, denied_here, verdict: judge.verdict }
    }

    fn process(
        &self,
        choice: Choice,
        limit: Limit,
        process: usize,
        traffic: &Traffic,
        denied_here: &Arc<AtomicU64>,
    ) -> RateLimiter {
        let redis =
            |socket: &str| RedisBackend::builder().url(format!("unix://{socket}")).timeout(Duration::from_secs(5));
        let builder = RateLimiter::builder("fleet").on_backend_error(OnBackendError::Deny);
        let builder = match choice {
            Choice::Share => return share(limit, process, traffic.processes),
            Choice::Exact => builder.backend(counted(redis(&self.socket).denial_cache(false).build(), denied_here)),
            Choice::DenialCache => builder.backend(counted(redis(&self.socket).build(), denied_here)),
            // As large as leases get: a tenth of the limit, a twentieth of the period.
            Choice::Leases => {
                let lease = redis(&self.socket).lease(1_000_000, Duration::from_secs(1)).build();
                builder.backend(counted(lease, denied_here))
            }
            Choice::Fallback => {
                let away = redis(&format!("{}.away", self.socket)).build();
                // In one process, limiters of one name would share their buckets.
                let builder = RateLimiter::builder(format!("fleet-{process}")).on_backend_error(OnBackendError::Local);
                builder.backend(counted(away, denied_here))
            }
        };
        builder.limit(limit).build().expect("a limit")
    }
}

fn counted(redis: Result<RedisBackend, BackendError>, denied_here: &Arc<AtomicU64>) -> Arc<Process> {
    Arc::new(Process { redis: redis.expect("a socket"), denied_here: Arc::clone(denied_here) })
}

/// An equal share of a limit. If that is less than one permit, one permit in a period longer by as
/// much.
fn share(limit: Limit, process: usize, processes: usize) -> RateLimiter {
    let processes = u32::try_from(processes).expect("few processes");
    let (count, per) = match limit.count() / processes {
        0 => (1, limit.per() * (processes / limit.count())),
        count => (count, limit.per()),
    };
    let own = Limit::new(count, per).with_algorithm(limit.algorithm());
    RateLimiter::builder(format!("fleet-{process}")).limit(own).build().expect("a limit")
}
