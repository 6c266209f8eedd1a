//! A background thread with its own runtime, started at the first use, for work that must go on
//! independently of the caller's executor.

use std::io;

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle};

use crate::rt::process::PerProcess;

/// The background thread's runtime. Fails if the thread cannot be started; the next call tries
/// again.
pub(crate) fn handle() -> io::Result<Handle> {
    static HANDLE: PerProcess<OnceCell<Handle>> = PerProcess::new();
    let this_process = HANDLE.get(OnceCell::new);
    let handle = this_process.get_or_try_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name("ratelimit".into()).spawn(move || {
            runtime.block_on(std::future::pending::<()>());
        })?;
        Ok::<_, io::Error>(handle)
    });
    handle.cloned()
}
