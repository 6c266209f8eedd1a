//! [`ClientIp`]: the client's address, which the client cannot forge.

mod hops;

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::key::{ExactIp, KeyWriter, RateLimitKey, embedded_v4};

/// The client's address, as a key and as an extractor for axum and actix-web handlers.
///
/// It is the peer's address, unless a [`ClientIpConfig`] names the peer as a trusted proxy: then it
/// comes from a header. An IPv6 address counts as its /64 network, because one customer holds a
/// whole /64. An IPv4-mapped address counts as its IPv4 address.
///
/// ```
/// use ratelimit_runtime::{ClientIp, RateLimitExceeded, rate_limit};
///
/// #[rate_limit(count = 10, per = "1s", key = client)]
/// async fn search(client: ClientIp) -> Result<String, RateLimitExceeded> {
///     Ok(format!("hello, {client}"))
/// }
/// ```
///
/// In axum, serve with `into_make_service_with_connect_info::<SocketAddr>()`. If the address is
/// unknown (without that, or on a unix socket), the answer is 500, because the request would
/// otherwise be unlimited. With `Option<ClientIp>`, such requests share a bucket of their own. If a
/// trusted proxy connects through a unix socket, add axum's `MockConnectInfo` as a layer: its
/// address stands for the peer of all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientIp {
    address: IpAddr,
    ipv6_prefix: u8,
}

impl ClientIp {
    /// The client's full address. An IPv4-mapped address is returned as IPv4.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The same bucket as its [`address`](ClientIp::address), unless [`ClientIpConfig::ipv6_prefix`] is
/// not 64.
impl RateLimitKey for ClientIp {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        match self.address {
            IpAddr::V6(address) if self.ipv6_prefix != DEFAULT_IPV6_PREFIX && embedded_v4(address).is_none() => {
                let host_bits = 128 - u32::from(self.ipv6_prefix);
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                let network = Ipv6Addr::from_bits(address.to_bits() & mask);
                (ExactIp(IpAddr::V6(network)), self.ipv6_prefix).write_to(writer);
            }
            address => address.write_to(writer),
        }
    }
}

/// Every customer holds at least one network of this length.
const DEFAULT_IPV6_PREFIX: u8 = 64;

/// How [`ClientIp`] finds the client's address.
///
/// Clients can write anything into a header. Behind your own proxies, name the proxies and the one
/// header that all of them write. The client is then the right-most address in that header that is
/// not a proxy: it was written by the proxy to its right. Everything further left is ignored.
///
/// Add it as an `Extension` in axum and as `app_data` in actix-web. Without one, headers are never
/// read.
///
/// ```
/// use axum::{Extension, Router, routing::get};
/// use ratelimit_runtime::{ClientIp, ClientIpConfig};
///
/// async fn who(client: ClientIp) -> String { client.to_string() }
///
/// let config = ClientIpConfig::x_forwarded_for(["10.0.0.0/8", "fd00::/8", "203.0.113.7"])?;
/// let app: Router = Router::new().route("/who", get(who)).layer(Extension(config));
/// # Ok::<(), ratelimit_runtime::InvalidNetwork>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientIpConfig {
    proxies: Option<Proxies>,
    ipv6_prefix: u8,
}

/// The trusted proxies.
#[derive(Clone, Debug)]
struct Proxies {
    header: Header,
    networks: Arc<[IpNet]>,
}

/// The header in which proxies report their client.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Header {
    XForwardedFor,
    Forwarded,
    /// A header with one address; the name is in lower case.
    Address(Arc<str>),
}

impl ClientIpConfig {
    /// The peer is the client. This is the default.
    pub fn peer() -> ClientIpConfig {
        ClientIpConfig { proxies: None, ipv6_prefix: DEFAULT_IPV6_PREFIX }
    }

    /// Peers in these networks (`10.0.0.0/8`) and at these addresses (`203.0.113.7`) are proxies
    /// that append their own peer's address to `X-Forwarded-For`.
    ///
    /// Do not list networks that clients can be in, and make sure that every proxy appends. A proxy
    /// that passes the header on unchanged lets clients forge their address.
    ///
    /// # Errors
    /// [`InvalidNetwork`] for the first text that is neither a network nor an address.
    pub fn x_forwarded_for<I>(proxies: I) -> Result<ClientIpConfig, InvalidNetwork>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        ClientIpConfig::behind(Header::XForwardedFor, proxies)
    }

    /// Peers in these networks and at these addresses are proxies that append to `Forwarded` (RFC
    /// 7239). The warnings of [`x_forwarded_for`](Self::x_forwarded_for) apply.
    ///
    /// # Errors
    /// [`InvalidNetwork`] for the first text that is neither a network nor an address.
    pub fn forwarded<I>(proxies: I) -> Result<ClientIpConfig, InvalidNetwork>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        ClientIpConfig::behind(Header::Forwarded, proxies)
    }

    /// Peers in these networks and at these addresses are proxies that write the client's address,
    /// and nothing else, into the header `name`: `X-Real-IP`, `CF-Connecting-IP`, `True-Client-IP`,
    /// `Fly-Client-IP`.
    ///
    /// Every proxy must replace what the client sent under that name. Of several header lines, the
    /// last counts. If a proxy writes anything but one address, the proxy itself is the client.
    /// `X-Forwarded-For` and `Forwarded` are read as by [`x_forwarded_for`](Self::x_forwarded_for)
    /// and [`forwarded`](Self::forwarded).
    ///
    /// # Errors
    /// If `name` is not a header name, or a text is neither a network nor an address.
    ///
    /// ```
    /// use ratelimit_runtime::ClientIpConfig;
    ///
    /// let config = ClientIpConfig::header("X-Real-IP", ["10.0.0.0/8"])?;
    /// let client = |peer: &str| config.resolve(peer.parse().unwrap(), [&b"203.0.113.9"[..]]).to_string();
    /// assert_eq!(client("10.0.0.1"), "203.0.113.9");
    /// assert_eq!(client("198.51.100.7"), "198.51.100.7"); // no proxy of ours: not believed
    /// # Ok::<(), ratelimit_runtime::InvalidClientIpConfig>(())
    /// ```
    pub fn header<I>(name: &str, proxies: I) -> Result<ClientIpConfig, InvalidClientIpConfig>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let name = name.to_ascii_lowercase();
        let header = match name.as_str() {
            "x-forwarded-for" => Header::XForwardedFor,
            "forwarded" => Header::Forwarded,
            name if is_header_name(name) => Header::Address(name.into()),
            _ => return Err(InvalidClientIpConfig::HeaderName(name.into())),
        };
        ClientIpConfig::behind(header, proxies).map_err(InvalidClientIpConfig::Network)
    }

    fn behind<I>(header: Header, proxies: I) -> Result<ClientIpConfig, InvalidNetwork>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let networks = proxies.into_iter().map(|proxy| network(proxy.as_ref())).collect::<Result<_, _>>()?;
        Ok(ClientIpConfig { proxies: Some(Proxies { header, networks }), ..ClientIpConfig::peer() })
    }

    /// Counts IPv6 addresses by networks of `bits` bits instead of 64.
    ///
    /// Takes 0 to 128; a larger value counts as 128. Use 56 or 48 if customers hold that much, 128
    /// for single addresses.
    pub fn ipv6_prefix(self, bits: u8) -> ClientIpConfig {
        ClientIpConfig { ipv6_prefix: bits.min(128), ..self }
    }

    /// The name of the header that is read, in lower case; `None` if no header is.
    pub fn header_name(&self) -> Option<&str> {
        self.proxies.as_ref().map(|proxies| match &proxies.header {
            Header::XForwardedFor => "x-forwarded-for",
            Header::Forwarded => "forwarded",
            Header::Address(name) => name,
        })
    }

    /// The client of a request from the address `peer`, given the values of
    /// [`header_name`](Self::header_name) in their order.
    ///
    /// If a proxy reports no client, or reports `unknown`, `_hidden` or anything else that is not
    /// an address, the proxy itself is the client. If all reported addresses are proxies, the first
    /// one is the client.
    ///
    /// ```
    /// use ratelimit_runtime::ClientIpConfig;
    ///
    /// let config = ClientIpConfig::x_forwarded_for(["10.0.0.0/8"])?;
    /// let client = |peer: &str, line: &str| config.resolve(peer.parse().unwrap(), [line.as_bytes()]).to_string();
    /// assert_eq!(client("10.0.0.1", "1.2.3.4, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
    /// assert_eq!(client("198.51.100.7", "203.0.113.9"), "198.51.100.7"); // no proxy of ours: not believed
    /// # Ok::<(), ratelimit_runtime::InvalidNetwork>(())
    /// ```
    pub fn resolve<'a, I>(&self, peer: IpAddr, lines: I) -> ClientIp
    where
        I: IntoIterator<Item = &'a [u8], IntoIter: DoubleEndedIterator>,
    {
        let mut address = peer.to_canonical();
        if let Some(proxies) = &self.proxies {
            let is_list = !matches!(proxies.header, Header::Address(_));
            // A proxy that writes one address has seen that client itself: earlier lines come from
            // the client.
            let lines = lines.into_iter().rev().take(if is_list { usize::MAX } else { 1 });
            let mut hops = lines.flat_map(|line| match proxies.header {
                Header::XForwardedFor => hops::x_forwarded_for(line),
                Header::Forwarded => hops::forwarded(line),
                Header::Address(_) => hops::address(line),
            });
            // Each hop was written by the one to its right, and is trusted only if that is a proxy
            // of ours.
            while proxies.are_at(address)
                && let Some(Some(hop)) = hops.next()
            {
                address = hop.to_canonical();
            }
        }
        ClientIp { address, ipv6_prefix: self.ipv6_prefix }
    }
}

impl Default for ClientIpConfig {
    fn default() -> ClientIpConfig {
        ClientIpConfig::peer()
    }
}

impl Proxies {
    fn are_at(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// `10.0.0.0/8`, or a single address. Refuses IPv4-mapped networks, which would match no address.
fn network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let invalid = || InvalidNetwork(text.into());
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    match text.parse().map_err(|_| invalid())? {
        IpNet::V6(network) if matches!(IpAddr::V6(network.addr()).to_canonical(), IpAddr::V4(_)) => Err(invalid()),
        network => Ok(network),
    }
}

/// The text is neither a network (`10.0.0.0/8`, `fd00::/8`) nor an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNetwork(Box<str>);

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is neither a network nor an address: write one as in `10.0.0.0/8`, `fd00::/8` or `203.0.113.7`",
            self.0
        )
    }
}

impl Error for InvalidNetwork {}

/// Whether `name` is a token of RFC 9110.
fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

/// Why [`ClientIpConfig::header`] refused its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidClientIpConfig {
    /// The name is not a header name.
    HeaderName(Box<str>),
    /// The text is neither a network nor an address.
    Network(InvalidNetwork),
}

impl fmt::Display for InvalidClientIpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidClientIpConfig::HeaderName(name) => {
                write!(f, "{name:?} is not the name of a header: write one as in `X-Real-IP`")
            }
            InvalidClientIpConfig::Network(network) => network.fmt(f),
        }
    }
}

impl Error for InvalidClientIpConfig {}

/// The client's address is unknown. As a response: 500, because the server is misconfigured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownClient;

impl fmt::Display for UnknownClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address of the client is not known to the server")
    }
}

impl Error for UnknownClient {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_network_is_refused_rather_than_never_met() {
        assert!(ClientIpConfig::x_forwarded_for(["::ffff:10.0.0.0/104"]).is_err());
        assert!(ClientIpConfig::x_forwarded_for(["::ffff:10.0.0.1"]).is_ok());
    }
}
