//! One thread with a runtime of its own, started at the first use: for what has to go on whatever executor a caller has.

use std::io;

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle};

use crate::process::PerProcess;

/// The runtime of the background thread. An error if the thread cannot be started; the next call tries again.
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
