//! For tower: layers that limit requests, report what is left, and drain the bodies of denied
//! requests.

mod after;
mod denial;
mod drain;
mod headers;
mod keying;
mod limit;

pub use after::{After, Nothing, PauseWhen, Settle};
pub use denial::{BoxError, Denial, Fail, IntoDenialResponse, Respond, RespondWith};
pub use drain::{BodyDrain, DrainBodyLayer, DrainBodyService, DrainFuture, ReturnedBody};
pub use headers::{HeadersFuture, RateLimitHeadersLayer, RateLimitHeadersService};
pub use keying::{Keying, Keys};
pub use limit::{LimitFuture, RateLimitLayer, RateLimitService};
