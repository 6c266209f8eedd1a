//! The items that the expansion of `#[rate_limit]` may name. Not for use by hand: it changes with
//! the attribute.

/// The first version of the expansion.
pub mod v1 {
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use crate::limiter::{Blockable, Holding, Owner};

    pub use crate::backend::{IntoBackend, SharedBackend, environments};
    pub use crate::error::{FromRateLimitExceeded, RateLimitExceeded};
    #[cfg(any(feature = "axum", feature = "actix-web"))]
    pub use crate::http::Limited;
    pub use crate::key::{KeyWriter, RateLimitKey};
    pub use crate::keys::RateLimitKeys;
    pub use crate::limit::{Algorithm, Limit};
    pub use crate::limiter::{Call, CallPermit, OnBackendError, RateLimiter, Spec, Wait};
    pub use std::option::Option::{self, None, Some};
    pub use std::result::Result::{self, Err, Ok};

    #[cfg(feature = "calendar")]
    pub use calendars::*;

    /// Limits by the calendar.
    #[cfg(feature = "calendar")]
    mod calendars {
        use crate::calendar::Weekday;
        use crate::limit::Limit;

        pub use crate::calendar::Calendar;

        /// `calendar = "day"`.
        pub const DAY: Calendar = Calendar::DAY;
        /// `calendar = "week"`.
        pub const WEEK: Calendar = Calendar::WEEK;
        /// `calendar = "month"`.
        pub const MONTH: Calendar = Calendar::MONTH;
        /// `calendar = "year"`.
        pub const YEAR: Calendar = Calendar::YEAR;
        /// `week_starts = monday`.
        pub const MONDAY: Weekday = Weekday::Monday;
        /// `week_starts = tuesday`.
        pub const TUESDAY: Weekday = Weekday::Tuesday;
        /// `week_starts = wednesday`.
        pub const WEDNESDAY: Weekday = Weekday::Wednesday;
        /// `week_starts = thursday`.
        pub const THURSDAY: Weekday = Weekday::Thursday;
        /// `week_starts = friday`.
        pub const FRIDAY: Weekday = Weekday::Friday;
        /// `week_starts = saturday`.
        pub const SATURDAY: Weekday = Weekday::Saturday;
        /// `week_starts = sunday`.
        pub const SUNDAY: Weekday = Weekday::Sunday;

        /// A calendar limit whose `count` the attribute has checked, or that is read at each call.
        pub const fn calendar(count: u32, calendar: Calendar) -> Limit {
            Limit::of_calendar(count, calendar)
        }

        /// The same months from a day on that the attribute has checked, or that is read at each
        /// call. One out of range is moved to the nearest.
        pub const fn starting_on(calendar: Calendar, day: u8) -> Calendar {
            calendar.starting_near(day)
        }
    }

    /// A literal duration.
    pub const fn per(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    /// A limit. A count of zero denies; a period out of range becomes the nearest in range.
    pub const fn limit(count: u32, per: Duration, algorithm: Algorithm) -> Limit {
        Limit::clamped(count, per, algorithm, count)
    }

    /// A token bucket that holds `burst`.
    pub const fn limit_with_burst(count: u32, per: Duration, algorithm: Algorithm, burst: u32) -> Limit {
        Limit::clamped(count, per, algorithm, burst)
    }

    /// The path of a type, which gives the surrounding function its name.
    pub fn path<T>() -> &'static str {
        std::any::type_name::<T>()
    }

    /// Writes the fields of a derived key as one value.
    pub fn key_parts<W: KeyWriter>(writer: &mut W, parts: usize, write: impl FnOnce(&mut W)) {
        // The number tells tuples of different lengths apart. A type has one length.
        writer.begin_tuple(u8::try_from(parts).unwrap_or(u8::MAX));
        write(writer);
        writer.end_tuple();
    }

    /// Short forms of the usual attributes, with few tokens and few steps, because they are
    /// compiled and evaluated for every function.
    impl Spec {
        /// A limit of literals. The period is in microseconds.
        pub const fn literal(self, algorithm: Algorithm, count: u32, micros: u64, burst: u32) -> Spec {
            self.limit(Limit::literal(count, micros, algorithm, burst))
        }

        /// The limiter, located where this is called: for the compiler, that is the attribute.
        #[track_caller]
        pub const fn limiter_here(self) -> RateLimiter {
            self.at(std::panic::Location::caller()).limiter()
        }
    }

    /// `backend = ..`.
    pub fn backend<B: IntoBackend>(backend: B) -> SharedBackend {
        backend.into_backend()
    }

    /// A key of a call with several. If the value is not a key, the type that this returns is
    /// unknown, so the compiler reports only that.
    #[inline]
    pub fn key<K: IsKey>(key: K) -> K::Key {
        key.itself()
    }

    /// See [`key`].
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be the key of a rate limit",
        label = "not a rate limit key",
        note = "keys are numbers, text, bytes, addresses, `Option`s and tuples of them; for a `SocketAddr` use `addr.ip()`, for another type one of its fields or `#[derive(RateLimitKey)]`"
    )]
    pub trait IsKey {
        /// The type itself.
        type Key: RateLimitKey;

        /// The key itself.
        fn itself(self) -> Self::Key;
    }

    #[diagnostic::do_not_recommend]
    impl<K: RateLimitKey> IsKey for K {
        type Key = K;

        #[inline]
        fn itself(self) -> K {
            self
        }
    }

    /// One call of an annotated function. It costs one permit and does not wait.
    #[inline]
    pub fn call<'a>(limiter: &'static RateLimiter) -> Call<'a> {
        Call::of_static(limiter.core())
    }

    /// A call of `limiter = ..`.
    #[inline]
    pub fn call_of_shared(limiter: &RateLimiter) -> Call<'_> {
        Call::new(limiter.core())
    }

    /// As `call`, by limits that are constants, each for this instance of the function.
    #[inline]
    pub fn call_by_constants<'a>(limiter: &'static RateLimiter, limits: &'a [Limit]) -> Call<'a> {
        let core = limiter.core_by(limits);
        let call = Call::of_static(core);
        if core.is_written(limits) { call } else { call.limits(limits) }
    }

    impl<'a> Call<'a> {
        /// The outcome of the body may pause the key.
        pub fn pausing(self) -> Pausing<'a> {
            Pausing { call: self, gives_back: false }
        }

        /// Decides on this thread. The permits can be given back.
        #[expect(clippy::inline_always, reason = "what is held is to stay in registers")]
        #[inline(always)]
        pub fn hold<K: RateLimitKey>(self, key: K) -> Result<Held, RateLimitExceeded> {
            let owner = self.owner();
            match self.hold_fast(&key) {
                Some(held) => Ok(Held { owner, holding: Holding::Memory(held) }),
                // By value, so that the fast path writes the call to no memory.
                None => self.hold_slowly(key).map(|holding| Held { owner, holding }),
            }
        }

        /// As `check_each`. The permits can be given back.
        pub fn hold_each<K: RateLimitKeys>(self, keys: K) -> Result<Held, RateLimitExceeded> {
            let owner = self.owner();
            let decision = self.start_each(&keys).finish()?;
            Ok(Held { owner, holding: Holding::Other(Box::new(decision)) })
        }

        /// As `check_each`, as far as it needs no waiting.
        pub fn begin_each<K: RateLimitKeys>(self, keys: K) -> Begun {
            Begun { begun: self.admit_each_in_future(&keys) }
        }

        /// As `begin_each`, but the permits can be given back.
        pub fn begin_held_each<K: RateLimitKeys>(self, keys: K) -> BegunHeld {
            let owner = self.owner();
            BegunHeld { owner, begun: crate::limiter::BegunHeld::later(self.in_future().start_each(&keys)) }
        }

        /// Does everything that needs no waiting.
        #[expect(clippy::inline_always, reason = "see `check`")]
        #[inline(always)]
        pub fn begin<K: RateLimitKey>(self, key: K) -> Begun {
            Begun { begun: self.admit_in_future(key) }
        }

        /// Like `begin`, but the permits can be given back.
        pub fn begin_held<K: RateLimitKey>(self, key: K) -> BegunHeld {
            let owner = self.owner();
            BegunHeld { owner, begun: self.hold_in_future(&key) }
        }
    }

    /// A call whose outcome may pause its key.
    #[derive(Clone, Copy)]
    pub struct Pausing<'a> {
        call: Call<'a>,
        gives_back: bool,
    }

    impl<'a> Pausing<'a> {
        /// The permits can be given back, too.
        pub fn giving_back(self) -> Pausing<'a> {
            Pausing { gives_back: true, ..self }
        }

        /// Decides on this thread.
        pub fn hold<K: RateLimitKey>(self, key: K) -> Result<Pausable, RateLimitExceeded> {
            let held = if self.gives_back {
                Some(self.call.hold(&key)?)
            } else {
                self.call.check(&key)?;
                None
            };
            Ok(Pausable { held, blockable: self.call.blockable(&key, None) })
        }

        /// As `hold`, by a key for each limit. The outcome may pause the one at `AT`.
        pub fn hold_each<const AT: usize, K: RateLimitKeys>(self, keys: K) -> Result<Pausable, RateLimitExceeded> {
            let blockable = self.chosen(AT, &keys, false);
            let held = if self.gives_back {
                Some(self.call.hold_each(keys)?)
            } else {
                self.call.check_each(keys)?;
                None
            };
            Ok(Pausable { held, blockable })
        }

        /// As `begin_held`, by a key for each limit. The outcome may pause the one at `AT`.
        pub fn begin_held_each<const AT: usize, K: RateLimitKeys>(self, keys: K) -> PausableBegun {
            let blockable = self.chosen(AT, &keys, true);
            let begun = if self.gives_back {
                EitherBegun::Held(self.call.begin_held_each(keys))
            } else {
                EitherBegun::Plain(self.call.begin_each(keys))
            };
            PausableBegun { begun, blockable }
        }

        fn chosen<K: RateLimitKeys>(&self, at: usize, keys: &K, is_async: bool) -> Blockable {
            struct Chosen<'a> {
                call: Call<'a>,
                at: usize,
                blockable: Blockable,
            }

            impl crate::keys::sealed::Visit for Chosen<'_> {
                fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
                    if index == self.at {
                        self.blockable = self.call.blockable(key, Some(index));
                    }
                }
            }

            let call = if is_async { self.call.in_future() } else { self.call };
            let mut chosen = Chosen { call, at, blockable: Blockable::default() };
            keys.each(&mut chosen);
            chosen.blockable
        }

        /// Does everything that needs no waiting.
        pub fn begin_held<K: RateLimitKey>(self, key: K) -> PausableBegun {
            let blockable = self.call.in_future().blockable(&key, None);
            let begun = if self.gives_back {
                EitherBegun::Held(self.call.begin_held(key))
            } else {
                EitherBegun::Plain(self.call.begin(key))
            };
            PausableBegun { begun, blockable }
        }
    }

    /// A call in progress whose outcome may pause its key.
    pub struct PausableBegun {
        begun: EitherBegun,
        blockable: Blockable,
    }

    enum EitherBegun {
        Held(BegunHeld),
        Plain(Begun),
    }

    impl PausableBegun {
        /// The decision.
        pub fn finish(self) -> impl Future<Output = Result<Pausable, RateLimitExceeded>> + Send {
            self
        }
    }

    impl Future for PausableBegun {
        type Output = Result<Pausable, RateLimitExceeded>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            let begun = match &mut self.begun {
                EitherBegun::Held(begun) => Pin::new(begun).poll(context).map(|held| held.map(Some)),
                EitherBegun::Plain(begun) => Pin::new(&mut begun.begun).poll(context).map(|done| done.map(|()| None)),
            };
            begun.map(|held| Ok(Pausable { held: held?, blockable: std::mem::take(&mut self.blockable) }))
        }
    }

    /// An admitted call whose outcome may pause its key.
    pub struct Pausable {
        held: Option<Held>,
        blockable: Blockable,
    }

    impl Pausable {
        /// Pauses the key.
        pub fn pause(&self, time: Option<Duration>) {
            if let Some(time) = time {
                crate::limiter::pause(&self.blockable, time);
            }
        }

        /// Pauses the key without blocking the thread.
        pub fn pause_async(&self, time: Option<Duration>) -> impl Future<Output = ()> + Send + use<> {
            let asks = time.and_then(|time| crate::limiter::start_pause(&self.blockable, time));
            Rest(asks.map(|asks| Box::pin(asks) as Pin<Box<dyn Future<Output = ()> + Send>>))
        }

        /// See [`Held::settle`].
        pub fn settle(self, counts: bool) {
            if let Some(held) = self.held {
                held.settle(counts);
            }
        }

        /// See [`Held::settle_async`].
        pub fn settle_async(self, counts: bool) -> impl Future<Output = ()> + Send {
            self.held.map_or(Rest(None), |held| held.give_back_async(counts))
        }
    }

    impl Pausable {
        /// See [`Held::took`].
        pub fn took(self, actual: u32) {
            if let Some(held) = self.held {
                held.took(actual);
            }
        }

        /// See [`Held::took_async`].
        pub fn took_async(self, actual: u32) -> impl Future<Output = ()> + Send {
            self.held.map_or(Rest(None), |held| held.charge_async(actual))
        }

        /// See [`Held::took_later`].
        pub fn took_later(self, actual: u32) {
            if let Some(held) = self.held {
                held.took_later(actual);
            }
        }
    }

    /// `permit = ..` beside `pause_when`.
    pub fn permit_of(held: &mut Option<Pausable>) -> CallPermit {
        permit(held.as_mut().and_then(|pausable| pausable.held.take()))
    }

    /// For how long an outcome pauses the key, at most `max` nanoseconds.
    pub fn pause<R: ?Sized>(outcome: &R, max: u64, f: impl FnOnce(&R) -> Option<Duration>) -> Option<Duration> {
        f(outcome).map(|time| time.min(Duration::from_nanos(max)))
    }

    /// A call of an asynchronous function in progress.
    pub struct Begun {
        begun: crate::limiter::Begun,
    }

    impl Begun {
        /// The decision.
        #[inline]
        pub fn finish(self) -> impl Future<Output = Result<(), RateLimitExceeded>> + Send {
            self.begun
        }
    }

    /// A call in progress whose permits can be given back.
    pub struct BegunHeld {
        owner: Owner,
        begun: crate::limiter::BegunHeld,
    }

    impl BegunHeld {
        /// The decision.
        pub fn finish(self) -> impl Future<Output = Result<Held, RateLimitExceeded>> + Send {
            self
        }
    }

    impl Future for BegunHeld {
        type Output = Result<Held, RateLimitExceeded>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            let begun = Pin::new(&mut self.begun).poll(context);
            begun.map(|decided| decided.map(|holding| Held { owner: self.owner.clone(), holding }))
        }
    }

    /// The rest of a backend's change. Boxed, so that a future without a backend reserves no room
    /// for it.
    struct Rest(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

    impl Future for Rest {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            self.0.as_mut().map_or(Poll::Ready(()), |rest| rest.as_mut().poll(context))
        }
    }

    /// Permits whose fate the outcome of the body decides. If dropped, they stay taken.
    pub struct Held {
        owner: Owner,
        holding: Holding,
    }

    impl Held {
        /// Gives the permits back unless the call counts.
        #[inline]
        pub fn settle(self, counts: bool) {
            if !counts {
                self.took(0);
            }
        }

        /// Gives the permits back unless the call counts, without blocking the thread.
        pub fn settle_async(self, counts: bool) -> impl Future<Output = ()> + Send {
            self.give_back_async(counts)
        }

        fn give_back_async(self, counts: bool) -> Rest {
            if counts { Rest(None) } else { self.charge_async(0) }
        }
    }

    impl Held {
        /// Settles the call at `actual` permits. If that fails, the reservation stands: the limit is
        /// kept.
        pub fn took(self, actual: u32) {
            let _ = self.owner.settle_held(self.holding, actual);
        }

        /// Like `took`, without blocking the thread.
        pub fn took_async(self, actual: u32) -> impl Future<Output = ()> + Send {
            self.charge_async(actual)
        }

        fn charge_async(self, actual: u32) -> Rest {
            let Held { owner, holding } = self;
            let Some(decision) = owner.settle_in_memory(holding, actual) else { return Rest(None) };
            Rest(Some(Box::pin(async move {
                let _ = owner.settle_async(*decision, actual).await;
            })))
        }

        /// Like `took`, without waiting for a backend.
        pub fn took_later(self, actual: u32) {
            self.owner.settle_held_later(self.holding, actual);
        }
    }

    /// `permit = ..`: permits that the body settles. `None` for an exempt call.
    pub fn permit(held: Option<Held>) -> CallPermit {
        CallPermit::new(held.map(|Held { owner, holding }| (owner, holding)))
    }

    /// A constant `count` or `burst`, possibly a const generic.
    #[derive(Clone, Copy)]
    pub struct Constant<const PERMITS: u32>;

    impl<const PERMITS: u32> Constant<PERMITS> {
        /// The value.
        pub const fn permits(self) -> u32 {
            PERMITS
        }
    }

    impl Constant<0> {
        /// Found before the trait's method. If the constant is zero, the compiler reports it
        /// without running anything.
        pub fn at_least_one<T: Zero>(self, _: T) -> u32 {
            0
        }
    }

    /// See [`Constant`].
    pub trait AtLeastOne {
        /// The value.
        fn at_least_one(self, _: ()) -> u32;
    }

    impl<const PERMITS: u32> AtLeastOne for Constant<PERMITS> {
        #[inline]
        fn at_least_one(self, (): ()) -> u32 {
            PERMITS
        }
    }

    /// Implemented by nothing.
    #[diagnostic::on_unimplemented(
        message = "a `count` or `burst` of 0 would deny every call: it is at least 1",
        label = "this constant is 0"
    )]
    pub trait Zero {}

    /// Fixes the output type of an `async` block.
    #[inline]
    pub fn no_outcome<T>() -> Option<T> {
        None
    }

    /// For a call that cannot be denied. It runs even if it was denied. Replaced limits may be too
    /// small for its cost, or a shared limiter denies while its backend fails.
    pub fn admitted(_: Result<(), RateLimitExceeded>) {}

    /// The return value of a denied call with `or_else`.
    pub fn or_else<R>(exceeded: RateLimitExceeded, f: impl FnOnce(RateLimitExceeded) -> R) -> R {
        f(exceeded)
    }

    /// The return value of a denied call with `or_else`, in a function that never returns.
    pub fn or_else_never(exceeded: RateLimitExceeded, f: impl FnOnce(RateLimitExceeded) -> Never) -> ! {
        f(exceeded)
    }

    /// `!`, which cannot be named yet.
    pub type Never = <fn() -> ! as Returns>::Output;

    /// Names the return type of a function pointer.
    pub trait Returns {
        /// Its return type.
        type Output;
    }

    impl<T> Returns for fn() -> T {
        type Output = T;
    }

    /// Whether a call with this outcome counts.
    pub fn counts<R: ?Sized>(outcome: &R, f: impl FnOnce(&R) -> bool) -> bool {
        f(outcome)
    }

    /// What a call with this outcome really cost.
    pub fn actual<R: ?Sized>(outcome: &R, f: impl FnOnce(&R) -> u32) -> u32 {
        f(outcome)
    }

    /// Runs a body whose outcome is inspected.
    pub fn run<T>(f: impl FnOnce() -> T) -> T {
        f()
    }
}
