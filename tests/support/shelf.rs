//! A store as users write it: the bytes of buckets in a map.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ratelimit_runtime::BackendError;
use ratelimit_runtime::backend::{Answer, Backend, Bucket, Deadline, Request};

/// A user's own backend.
#[derive(Debug)]
pub struct Shelf {
    buckets: Mutex<HashMap<String, Vec<u8>>>,
    denial_cache: bool,
    deadline: Deadline,
}

impl Shelf {
    /// Has denials cached.
    #[must_use]
    pub fn keeping_denials(self) -> Shelf {
        Shelf { denial_cache: true, ..self }
    }

    /// Decides on the calling thread, without a deadline.
    #[must_use]
    pub fn keeping_its_deadline(self) -> Shelf {
        Shelf { deadline: Deadline::Kept, ..self }
    }
}

impl Default for Shelf {
    /// Without a denial cache, and with a deadline long enough for a busy machine.
    fn default() -> Shelf {
        let deadline = Deadline::Imposed(Duration::from_secs(20));
        Shelf { buckets: Mutex::default(), denial_cache: false, deadline }
    }
}

impl Backend for Shelf {
    fn decide(&self, request: &Request) -> Result<Answer, BackendError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = buckets.get(request.bucket()).map(Vec::as_slice).unwrap_or_default();
        let mut bucket = Bucket::from_bytes(bytes)?;
        let answer = bucket.apply(request, request.now());
        buckets.insert(request.bucket().to_owned(), bucket.to_bytes());
        Ok(answer)
    }

    fn deadline(&self) -> Deadline {
        self.deadline
    }

    fn denial_cache(&self) -> bool {
        self.denial_cache
    }
}
