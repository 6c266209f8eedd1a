//! One thread with a runtime of its own, started at the first use: for what has to go on whatever executor a caller has.

use std::io;

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle};

/// The runtime of the background thread. An error if the thread cannot be started; the next call tries again.
pub(crate) fn handle() -> io::Result<&'static Handle> {
    static HANDLE: OnceCell<Handle> = OnceCell::new();
    HANDLE.get_or_try_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name("ratelimit".into()).spawn(move || {
            runtime.block_on(std::future::pending::<()>());
        })?;
        Ok(handle)
    })
}
