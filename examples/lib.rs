//! Shared by the examples: servers' configuration. The documents' code runs from here too.

use std::env;

use ratelimit_runtime::{ClientIpConfig, InvalidNetwork};

/// A server's address: `ADDR` with a port, or `PORT` on this machine.
pub fn address(default_port: u16) -> String {
    env::var("ADDR").unwrap_or_else(|_| format!("127.0.0.1:{}", env::var("PORT").unwrap_or(default_port.to_string())))
}

/// How clients' addresses are found, by `TRUSTED_PROXIES`.
pub fn trusted_proxies() -> Result<ClientIpConfig, InvalidNetwork> {
    match env::var("TRUSTED_PROXIES") {
        Ok(proxies) => ClientIpConfig::x_forwarded_for(proxies.split(',')),
        Err(_) => Ok(ClientIpConfig::peer()),
    }
}

/// Compiles and runs the README's code as a doc test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

pub mod key;

/// The code in `docs` and in the package's README likewise. `scripts/check-papers` finds a document that is missing.
#[cfg(doctest)]
pub mod docs {
    #[doc = include_str!("../docs/beside-other-attributes.md")]
    pub struct BesideOtherAttributes;
    #[doc = include_str!("../docs/faults.md")]
    pub struct Faults;
    #[doc = include_str!("../docs/guide.md")]
    pub struct Guide;
    #[doc = include_str!("../docs/operating.md")]
    pub struct Operating;
    #[doc = include_str!("../ratelimit-runtime/README.md")]
    pub struct Package;
    #[doc = include_str!("../docs/recipes.md")]
    pub struct Recipes;
    #[doc = include_str!("../docs/redis.md")]
    pub struct Redis;
    #[doc = include_str!("../docs/scale.md")]
    pub struct Scale;
    #[doc = include_str!("../docs/security.md")]
    pub struct Security;
    #[doc = include_str!("../docs/speed.md")]
    pub struct Speed;
    #[doc = include_str!("../docs/stores.md")]
    pub struct Stores;
    #[doc = include_str!("../docs/testing.md")]
    pub struct Testing;
    #[doc = include_str!("../docs/web.md")]
    pub struct Web;
}
