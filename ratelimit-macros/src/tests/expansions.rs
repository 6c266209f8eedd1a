//! The expansion of twelve shapes of functions, meant to be read: a prologue, then the body.

#![expect(clippy::needless_raw_string_hashes, reason = "expect-test writes them")]

use expect_test::{Expect, expect};

use super::expanded;

#[expect(clippy::needless_pass_by_value, reason = "`expect!` is made to be written in place")]
fn check(args: &str, item: &str, expected: Expect) {
    expected.assert_eq(&expanded(args, item));
}

#[test]
fn a_blocking_function() {
    check(
        r#"count = 100, per = "1s", key = user_id"#,
        "pub fn search(user_id: &str) -> Result<u32, RateLimitExceeded> { #![allow(dead_code)] let found = 1; Ok(found) }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 100 calls per 1s for each `user_id`; sliding window."
            )]
            pub fn search(user_id: &str) -> Result<u32, RateLimitExceeded> {
                #![allow(dead_code)]
                let __limiter = {
                    enum __Here {}
                    static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                        .literal(rt::Algorithm::SlidingWindow, 100, 1000000, 100)
                        .one_permit()
                        .limiter_here();
                    &__LIMITER
                };
                let __checked = rt::call(__limiter).check(&user_id);
                if let rt::Err(__exceeded) = __checked {
                    return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                }
                {
                    let found = 1;
                    Ok(found)
                }
            }
        "##]],
    );
}

#[test]
fn a_method_with_several_limits() {
    check(
        r#"limit(count = 10, per = "1s"), limit(count = 500, per = "1h", algorithm = token_bucket, burst = 50), key = (self.tenant, user.id()), cost = files.len() as u32, name = "files""#,
        "/// Stores files.\nfn store(&mut self, user: User, files: &[File]) -> io::Result<()> { self.store.put(files) }",
        expect![[r#"
            /// Stores files.
            ///
            /// Rate limit: 10 permits per 1s (sliding window) and 500 permits per 1h (token bucket of 50) for each key; a call takes a varying number of permits.
            fn store(&mut self, user: User, files: &[File]) -> io::Result<()> {
                let __limiter = {
                    static __LIMITER: rt::RateLimiter = rt::Spec::named("files")
                        .literal(rt::Algorithm::SlidingWindow, 10, 1000000, 10)
                        .literal(rt::Algorithm::TokenBucket, 500, 3600000000, 50)
                        .limiter_here();
                    &__LIMITER
                };
                let __cost: ::core::primitive::u32 = files.len() as u32;
                let __checked = rt::call(__limiter).cost(__cost).check((&self.tenant, user.id()));
                if let rt::Err(__exceeded) = __checked {
                    return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                }
                {
                    const _: () = ();
                    self.store.put(files)
                }
            }
        "#]],
    );
}

#[test]
fn limits_with_a_key_each() {
    check(
        r#"limit(count = 10, per = "1s", key = user), limit(count = 99, per = "1m", key = user), limit(count = 500, per = "1s", key = self.tenant()), limit(count = 9, per = "1s")"#,
        "async fn search(&self, user: &str) -> Option<u32> { self.find(user).await }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 10 calls per 1s for each `user`, 99 calls per 1m for each `user`, 500 calls per 1s for each key and 9 calls per 1s in all; sliding window."
            )]
            async fn search(&self, user: &str) -> Option<u32> {
                {
                    let __limiter = {
                        enum __Here {}
                        static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                            .literal(rt::Algorithm::SlidingWindow, 10, 1000000, 10)
                            .literal(rt::Algorithm::SlidingWindow, 99, 60000000, 99)
                            .key(0)
                            .literal(rt::Algorithm::SlidingWindow, 500, 1000000, 500)
                            .key(1)
                            .literal(rt::Algorithm::SlidingWindow, 9, 1000000, 9)
                            .key(2)
                            .limiter_here();
                        &__LIMITER
                    };
                    let __begun = rt::call(__limiter)
                        .begin_each((rt::key(&user), rt::key(self.tenant()), ()));
                    let __checked = __begun.finish().await;
                    if let rt::Err(__exceeded) = __checked {
                        return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                    }
                }
                {
                    const _: () = ();
                    self.find(user).await
                }
            }
        "##]],
    );
}

#[test]
fn limits_read_at_each_call() {
    check(
        "count = self.plan.calls, per = self.plan.period",
        "fn call<T: Send>(self: Pin<&mut Self>) -> Option<T> { None }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: a varying number of calls in a varying period; sliding window."
            )]
            fn call<T: Send>(self: Pin<&mut Self>) -> Option<T> {
                let __limiter = {
                    enum __Here {}
                    static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                        .limit(rt::limit(1, rt::per(1), rt::Algorithm::SlidingWindow))
                        .reads_count()
                        .reads_per()
                        .without_keys()
                        .one_permit()
                        .limiter_here();
                    &__LIMITER
                };
                let __count0: ::core::primitive::u32 = self.plan.calls;
                let __per0: ::core::time::Duration = self.plan.period;
                let __checked = rt::call(__limiter)
                    .limits(&[rt::limit(__count0, __per0, rt::Algorithm::SlidingWindow)])
                    .check(());
                if let rt::Err(__exceeded) = __checked {
                    return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                }
                {
                    const _: () = ();
                    None
                }
            }
        "##]],
    );
}

#[test]
fn constants() {
    check(
        "count = N, per = config::PERIOD, cost = Self::COST",
        "fn call<const N: u32>() -> Option<u32> { None }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: a fixed number of permits in a fixed period; sliding window; a call takes a fixed number of permits."
            )]
            fn call<const N: u32>() -> Option<u32> {
                let __limiter = {
                    enum __Here {}
                    static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                        .limit(
                            rt::limit(
                                1,
                                {
                                    const __VALUE: ::core::time::Duration = config::PERIOD;
                                    const _: () = ::core::assert!(
                                        __VALUE.as_nanos() >= 1000 && __VALUE.as_nanos() <=
                                        31622400000000000,
                                        "`per` is a duration from 1 microsecond to 366 days"
                                    );
                                    __VALUE
                                },
                                rt::Algorithm::SlidingWindow,
                            ),
                        )
                        .reads_count()
                        .constant()
                        .without_keys()
                        .limiter_here();
                    &__LIMITER
                };
                let __count0: ::core::primitive::u32 = {
                    use rt::AtLeastOne as _;
                    const {
                        let __constant = rt::Constant::<{ N }>;
                        ::core::assert!(
                            __constant.permits() >= 1,
                            "`count` is at least 1: with 0 every call would be denied"
                        );
                        __constant
                    }
                        .at_least_one(())
                };
                let __cost: ::core::primitive::u32 = Self::COST;
                const {
                    ::core::assert!(
                        Self::COST as ::core::primitive::u64 <= N as ::core::primitive::u64,
                        "`cost` is above the limit: the call never fits"
                    )
                };
                let __checked = rt::call_by_constants(
                        __limiter,
                        &[rt::limit(__count0, config::PERIOD, rt::Algorithm::SlidingWindow)],
                    )
                    .cost(__cost)
                    .check(());
                if let rt::Err(__exceeded) = __checked {
                    return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                }
                {
                    const _: () = ();
                    None
                }
            }
        "##]],
    );
}

#[test]
fn an_async_function() {
    check(
        r#"count = 5, per = "1m", key = ip, or_else = |exceeded| Response::too_many(exceeded), exempt_when = ip.is_loopback()"#,
        "async fn fetch(ip: IpAddr) -> Response { load(ip).await }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 5 calls per 1m for each `ip`; sliding window; some calls are exempt."
            )]
            async fn fetch(ip: IpAddr) -> Response {
                let __exempt: ::core::primitive::bool = ip.is_loopback();
                if !__exempt {
                    let __limiter = {
                        enum __Here {}
                        static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                            .literal(rt::Algorithm::SlidingWindow, 5, 60000000, 5)
                            .one_permit()
                            .limiter_here();
                        &__LIMITER
                    };
                    let __begun = rt::call(__limiter).begin(&ip);
                    let __checked = __begun.finish().await;
                    if let rt::Err(__exceeded) = __checked {
                        return rt::or_else::<
                            Response,
                        >(__exceeded, |exceeded| Response::too_many(exceeded));
                    }
                }
                {
                    const _: () = ();
                    load(ip).await
                }
            }
        "##]],
    );
}

#[test]
fn a_boxed_future() {
    check(
        r#"count = 5, per = "1m", key = id"#,
        "fn fetch<'a>(&'a self, id: u32) -> Pin<Box<dyn Future<Output = Result<u32, Error>> + Send + 'a>> { Box::pin(async move { let id = id; self.load(id).await }) }",
        expect![[r##"
            #[cfg_attr(doc, doc = " Rate limit: 5 calls per 1m for each `id`; sliding window.")]
            fn fetch<'a>(
                &'a self,
                id: u32,
            ) -> Pin<Box<dyn Future<Output = Result<u32, Error>> + Send + 'a>> {
                Box::pin(async move {
                    {
                        let __limiter = {
                            enum __Here {}
                            static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                                .literal(rt::Algorithm::SlidingWindow, 5, 60000000, 5)
                                .one_permit()
                                .limiter_here();
                            &__LIMITER
                        };
                        let __begun = rt::call(__limiter).begin(&id);
                        let __checked = __begun.finish().await;
                        if let rt::Err(__exceeded) = __checked {
                            return <Result<
                                u32,
                                Error,
                            > as rt::FromRateLimitExceeded>::from_rate_limit_exceeded(__exceeded);
                        }
                    }
                    {
                        let id = id;
                        self.load(id).await
                    }
                })
            }
        "##]],
    );
}

#[test]
fn a_future_behind_statements() {
    check(
        r#"limiter = API, key = id"#,
        "fn fetch(id: u32) -> impl Future<Output = Result<u32, Error>> { let started = now(); async move { load(id, started).await } }",
        expect![[r##"
            #[cfg_attr(doc, doc = " Rate limit: set by a shared limiter for each `id`.")]
            fn fetch(id: u32) -> impl Future<Output = Result<u32, Error>> {
                let started = now();
                async move {
                    {
                        let __begun = match (&API,) {
                            (__shared,) => rt::call_of_shared(__shared).begin(&id),
                        };
                        let __checked = __begun.finish().await;
                        if let rt::Err(__exceeded) = __checked {
                            return <Result<
                                u32,
                                Error,
                            > as rt::FromRateLimitExceeded>::from_rate_limit_exceeded(__exceeded);
                        }
                    }
                    {
                        const _: () = ();
                        load(id, started).await
                    }
                }
            }
        "##]],
    );
}

#[test]
fn a_function_that_waits() {
    check(
        r#"count = 10, per = "1s", wait"#,
        "fn send(mail: Mail) { post(mail) }",
        expect![[r##"
            #[cfg_attr(doc, doc = " Rate limit: 10 calls per 1s; sliding window; waits.")]
            fn send(mail: Mail) {
                let __limiter = {
                    enum __Here {}
                    static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                        .literal(rt::Algorithm::SlidingWindow, 10, 1000000, 10)
                        .without_keys()
                        .limiter_here();
                    &__LIMITER
                };
                let __checked = rt::call(__limiter).wait(rt::Wait::Forever).check(());
                rt::admitted(__checked);
                {
                    const _: () = ();
                    post(mail)
                }
            }
        "##]],
    );
}

#[test]
fn an_outcome_that_pauses() {
    check(
        r#"count = 3, per = "1s", key = host, ban = "10m", pause_when = retry_after, deduct_when = Result::is_ok"#,
        "async fn fetch(host: &str) -> Result<Page, Error> { get(host).await }",
        expect![[r##"
            #[cfg_attr(doc, doc = " Rate limit: 3 calls per 1s for each `host`; sliding window.")]
            async fn fetch(host: &str) -> Result<Page, Error> {
                let __held = {
                    let __limiter = {
                        enum __Here {}
                        static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                            .literal(rt::Algorithm::SlidingWindow, 3, 1000000, 3)
                            .ban(rt::per(600000000000))
                            .limiter_here();
                        &__LIMITER
                    };
                    let __begun = rt::call(__limiter).pausing().giving_back().begin_held(&host);
                    let __checked = __begun.finish().await;
                    match __checked {
                        rt::Ok(__held) => rt::Some(__held),
                        rt::Err(__exceeded) => {
                            return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                        }
                    }
                };
                let __outcome: Result<Page, Error> = async move {
                    if let rt::Some(__outcome) = rt::no_outcome::<Result<Page, Error>>() {
                        return __outcome;
                    }
                    {
                        const _: () = ();
                        get(host).await
                    }
                }
                    .await;
                if let rt::Some(__held) = __held {
                    let __pause = rt::pause(&__outcome, 3600000000000, retry_after);
                    __held.pause_async(__pause).await;
                    let __counts = rt::counts(&__outcome, Result::is_ok);
                    __held.settle_async(__counts).await;
                }
                return __outcome;
            }
        "##]],
    );
}

#[test]
fn a_deducted_outcome() {
    check(
        r#"count = 3, per = "1h", key = user, deduct_when = Result::is_err, backoff(initial = "1s", max = "1h")"#,
        "fn log_in(user: &str) -> Result<impl Session, Error> { open(user) }",
        expect![[r##"
            #[cfg_attr(doc, doc = " Rate limit: 3 calls per 1h for each `user`; sliding window.")]
            fn log_in(user: &str) -> Result<impl Session, Error> {
                let __held = {
                    let __limiter = {
                        enum __Here {}
                        static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                            .literal(rt::Algorithm::SlidingWindow, 3, 3600000000, 3)
                            .backoff(rt::per(1000000000), rt::per(3600000000000))
                            .limiter_here();
                        &__LIMITER
                    };
                    let __checked = rt::call(__limiter).hold(&user);
                    match __checked {
                        rt::Ok(__held) => rt::Some(__held),
                        rt::Err(__exceeded) => {
                            return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                        }
                    }
                };
                let __outcome: Result<_, Error> = rt::run(move || -> Result<_, Error> {
                    const _: () = ();
                    open(user)
                });
                if let rt::Some(__held) = __held {
                    __held.settle(rt::counts(&__outcome, Result::is_err));
                }
                return __outcome;
            }
        "##]],
    );
}

#[test]
fn a_deducted_outcome_in_an_async_function() {
    check(
        r#"count = 3, per = "1h", key = user, deduct_when = |outcome| outcome.is_err(), exempt_when = trusted, backend = redis, on_backend_error = deny"#,
        "async fn log_in(user: &str, trusted: bool) -> Result<(), Error> { open(user).await }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 3 calls per 1h for each `user`; sliding window; exempt if `trusted`."
            )]
            async fn log_in(user: &str, trusted: bool) -> Result<(), Error> {
                let __held = {
                    let __exempt: ::core::primitive::bool = trusted;
                    if __exempt {
                        rt::None
                    } else {
                        let __limiter = {
                            enum __Here {}
                            static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                                .literal(rt::Algorithm::SlidingWindow, 3, 3600000000, 3)
                                .backend(rt::environments::redis)
                                .on_backend_error(rt::OnBackendError::Deny)
                                .limiter_here();
                            &__LIMITER
                        };
                        let __begun = rt::call(__limiter).begin_held(&user);
                        let __checked = __begun.finish().await;
                        match __checked {
                            rt::Ok(__held) => rt::Some(__held),
                            rt::Err(__exceeded) => {
                                return rt::FromRateLimitExceeded::from_rate_limit_exceeded(
                                    __exceeded,
                                );
                            }
                        }
                    }
                };
                let __outcome: Result<(), Error> = async move {
                    if let rt::Some(__outcome) = rt::no_outcome::<Result<(), Error>>() {
                        return __outcome;
                    }
                    {
                        const _: () = ();
                        open(user).await
                    }
                }
                    .await;
                if let rt::Some(__held) = __held {
                    let __counts = rt::counts(&__outcome, |outcome| outcome.is_err());
                    __held.settle_async(__counts).await;
                }
                return __outcome;
            }
        "##]],
    );
}

#[test]
fn a_settled_outcome_in_an_async_function() {
    check(
        r#"count = 900, per = "1m", cost = 50, settle = |outcome| tokens(outcome), settle_later"#,
        "async fn ask(question: &str) -> Result<Answer, Error> { model(question).await }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 900 permits per 1m; sliding window; a call takes 50 permits."
            )]
            async fn ask(question: &str) -> Result<Answer, Error> {
                let __held = {
                    let __limiter = {
                        enum __Here {}
                        static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                            .literal(rt::Algorithm::SlidingWindow, 900, 60000000, 900)
                            .without_keys()
                            .limiter_here();
                        &__LIMITER
                    };
                    let __begun = rt::call(__limiter).cost(50).begin_held(());
                    let __checked = __begun.finish().await;
                    match __checked {
                        rt::Ok(__held) => rt::Some(__held),
                        rt::Err(__exceeded) => {
                            return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                        }
                    }
                };
                let __outcome: Result<Answer, Error> = async move {
                    if let rt::Some(__outcome) = rt::no_outcome::<Result<Answer, Error>>() {
                        return __outcome;
                    }
                    {
                        const _: () = ();
                        model(question).await
                    }
                }
                    .await;
                if let rt::Some(__held) = __held {
                    let __counts = rt::actual(&__outcome, |outcome| tokens(outcome));
                    __held.took_later(__counts);
                }
                return __outcome;
            }
        "##]],
    );
}

#[test]
fn a_permit_for_the_body() {
    check(
        r#"count = 900, per = "1m", cost = 50, key = user, permit = reserved"#,
        "fn ask(user: u64) -> Result<Answer, Error> { stream(reserved) }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 900 permits per 1m for each `user`; sliding window; a call takes 50 permits."
            )]
            fn ask(user: u64) -> Result<Answer, Error> {
                let reserved = rt::permit({
                    let __limiter = {
                        enum __Here {}
                        static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                            .literal(rt::Algorithm::SlidingWindow, 900, 60000000, 900)
                            .limiter_here();
                        &__LIMITER
                    };
                    let __checked = rt::call(__limiter).cost(50).hold(&user);
                    match __checked {
                        rt::Ok(__held) => rt::Some(__held),
                        rt::Err(__exceeded) => {
                            return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                        }
                    }
                });
                {
                    const _: () = ();
                    stream(reserved)
                }
            }
        "##]],
    );
}

#[test]
fn a_response() {
    check(
        r#"count = 3, per = "1h", backend = Store::open(), crate = web::limits"#,
        "async fn page() -> impl IntoResponse { render().await }",
        expect![[r##"
            #[cfg_attr(doc, doc = " Rate limit: 3 calls per 1h; sliding window.")]
            async fn page() -> impl IntoResponse {
                use web::limits::macro_support::v1 as __runtime;
                {
                    let __limiter = {
                        enum __Here {}
                        fn __backend() -> __runtime::SharedBackend {
                            __runtime::backend(Store::open())
                        }
                        static __LIMITER: __runtime::RateLimiter = __runtime::Spec::unnamed(
                                __runtime::path::<__Here>,
                            )
                            .literal(__runtime::Algorithm::SlidingWindow, 3, 3600000000, 3)
                            .backend(__backend)
                            .without_keys()
                            .limiter_here();
                        &__LIMITER
                    };
                    let __begun = __runtime::call(__limiter).begin(());
                    let __checked = __begun.finish().await;
                    if let __runtime::Err(__exceeded) = __checked {
                        return __runtime::Limited::Denied(__exceeded);
                    }
                }
                return __runtime::Limited::Admitted(
                    async move {
                        {
                            const _: () = ();
                            render().await
                        }
                    }
                        .await,
                );
            }
        "##]],
    );
}

#[test]
fn calendars_on_a_function() {
    check(
        r#"limit(count = 9, calendar = "month", zone = "Europe/Berlin", starts_on = day, algorithm = fixed_window),
           limit(count = 2, calendar = "week", week_starts = sunday, algorithm = fixed_window)"#,
        "fn export(day: u8) -> Option<u8> { Some(day) }",
        expect![[r##"
            #[cfg_attr(
                doc,
                doc = " Rate limit: 9 calls per calendar month from day `day` (Europe/Berlin) and 2 calls per calendar week from sunday (UTC); fixed window."
            )]
            fn export(day: u8) -> Option<u8> {
                let __limiter = {
                    enum __Here {}
                    static __LIMITER: rt::RateLimiter = rt::Spec::unnamed(rt::path::<__Here>)
                        .limit(
                            rt::calendar(
                                9,
                                {
                                    const __ZONED: rt::Calendar = rt::MONTH.in_zone("Europe/Berlin");
                                    __ZONED
                                },
                            ),
                        )
                        .reads_count()
                        .limit(rt::calendar(2, rt::WEEK.week_starts(rt::SUNDAY)))
                        .without_keys()
                        .limiter_here();
                    &__LIMITER
                };
                let __starts_on0: ::core::primitive::u8 = day;
                let __checked = rt::call(__limiter)
                    .limits(
                        &[
                            rt::calendar(
                                9,
                                rt::starting_on(
                                    {
                                        const __ZONED: rt::Calendar = rt::MONTH
                                            .in_zone("Europe/Berlin");
                                        __ZONED
                                    },
                                    __starts_on0,
                                ),
                            ),
                            rt::calendar(2, rt::WEEK.week_starts(rt::SUNDAY)),
                        ],
                    )
                    .check(());
                if let rt::Err(__exceeded) = __checked {
                    return rt::FromRateLimitExceeded::from_rate_limit_exceeded(__exceeded);
                }
                {
                    const _: () = ();
                    Some(day)
                }
            }
        "##]],
    );
}
