//! For tower: a layer that limits requests, and one that tells clients what is left.

mod denial;
mod headers;
mod limit;

pub use denial::{BoxError, Denial, Fail, Respond, RespondWith};
pub use headers::{HeadersFuture, RateLimitHeadersLayer, RateLimitHeadersService};
pub use limit::{LimitFuture, RateLimitLayer, RateLimitService};
