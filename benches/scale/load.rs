//! Calls by many tasks at once, in real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ratelimit_runtime::{ExceededKind, RateLimitExceeded, RateLimiter};
use tokio::runtime::{Builder, Runtime};

/// The key of the nth call.
pub(crate) type Keys = Arc<dyn Fn(u64) -> u64 + Send + Sync>;

pub(crate) struct Load {
    runtime: Runtime,
}

impl Load {
    pub(crate) fn new() -> Load {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        Load { runtime }
    }

    /// Decides on `most` calls, or for as long as `longest`. Returns how many were decided. With no
    /// tasks, this thread makes blocking calls.
    pub(crate) fn run(&self, limiter: &RateLimiter, tasks: u32, keys: &Keys, most: u64, longest: Duration) -> u64 {
        let (next, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let until = Instant::now() + longest;
        let number = {
            let next = Arc::clone(&next);
            move || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < most && Instant::now() < until)
        };
        if tasks == 0 {
            while let Some(number) = number() {
                check(limiter.check(keys(number), 1).err());
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.runtime.block_on(async {
            let tasks: Vec<_> = (0..tasks)
                .map(|_| {
                    let (limiter, keys, done, number) =
                        (limiter.clone(), Arc::clone(keys), Arc::clone(&done), number.clone());
                    self.runtime.spawn(async move {
                        while let Some(number) = number() {
                            check(limiter.check_async(keys(number), 1).await.err());
                            done.fetch_add(1, Ordering::Relaxed);
                            // A call that needs no server never yields, and would keep its worker.
                            tokio::task::consume_budget().await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no call fails");
            }
        });
        done.load(Ordering::Relaxed)
    }
}

/// A failing server would make the figures worthless.
fn check(denied: Option<RateLimitExceeded>) {
    if let Some(exceeded) = denied.filter(|exceeded| exceeded.kind() == ExceededKind::BackendFailed) {
        panic!("{exceeded:?}: {:?}", std::error::Error::source(&exceeded));
    }
}
