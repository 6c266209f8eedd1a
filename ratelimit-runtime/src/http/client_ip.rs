//! [`ClientIp`]: the address of who is calling, which the caller cannot forge.

mod hops;

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::key::{ExactIp, KeyWriter, RateLimitKey, embedded_v4};

/// The address of the client that sends a request, as a key: an extractor of axum and actix-web handlers.
///
/// It is the address of the other end of the connection. Only where a [`ClientIpConfig`] says so, and the other end is one
/// of the proxies that it names, is it taken from a header. An IPv6 address counts as its /64 network, because one customer
/// holds a whole /64, and an IPv4-mapped one as its IPv4 address.
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
/// In axum, serve with `into_make_service_with_connect_info::<SocketAddr>()`. Where no address is known (without that, or on
/// a unix socket), the request is answered with 500: it would be unlimited otherwise. With `Option<ClientIp>` such requests
/// share a bucket of their own. Where a trusted proxy comes by a unix socket, axum's `MockConnectInfo` as a layer says for all
/// requests from which address it is to count as coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientIp {
    address: IpAddr,
    ipv6_prefix: u8,
}

impl ClientIp {
    /// The client's full address; an IPv4-mapped one as IPv4.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The same bucket as that of its [`address`](ClientIp::address), unless IPv6 addresses count by other networks than /64.
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

/// A customer holds at least one of these.
const DEFAULT_IPV6_PREFIX: u8 = 64;

/// How the address of a [`ClientIp`] is found.
///
/// Anybody can write anything into a header. Behind proxies of your own, name them, and the one header that they all write:
/// the client is then the right-most address in it that is none of theirs, which the proxy next to it has seen itself. What
/// stands further left is not looked at.
///
/// In axum it is an `Extension`, in actix-web `app_data`; without one, headers are never looked at.
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

/// The proxies whose word is taken.
#[derive(Clone, Debug)]
struct Proxies {
    header: Header,
    networks: Arc<[IpNet]>,
}

/// In which header proxies say for whom they ask.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Header {
    XForwardedFor,
    Forwarded,
    /// One address; the name in lower case.
    Address(Arc<str>),
}

impl ClientIpConfig {
    /// The other end of the connection is the client. The default.
    pub fn peer() -> ClientIpConfig {
        ClientIpConfig { proxies: None, ipv6_prefix: DEFAULT_IPV6_PREFIX }
    }

    /// Connections from these networks (`10.0.0.0/8`) and addresses (`203.0.113.7`) come from proxies that append the
    /// address they are asked from to `X-Forwarded-For`.
    ///
    /// Name no network of which clients may be, and make sure that every one of the proxies appends: a proxy that passes the
    /// header on as it comes lets anybody be anybody.
    pub fn x_forwarded_for<I>(proxies: I) -> Result<ClientIpConfig, InvalidNetwork>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        ClientIpConfig::behind(Header::XForwardedFor, proxies)
    }

    /// As [`x_forwarded_for`](Self::x_forwarded_for), of proxies that append to `Forwarded` (RFC 7239).
    pub fn forwarded<I>(proxies: I) -> Result<ClientIpConfig, InvalidNetwork>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        ClientIpConfig::behind(Header::Forwarded, proxies)
    }

    /// Connections from these networks and addresses come from proxies that write the client's
    /// address, and nothing else, into the header of that name: `X-Real-IP`, `CF-Connecting-IP`,
    /// `True-Client-IP`, `Fly-Client-IP`.
    ///
    /// Every one of the proxies has to replace what the client sent under that name. Of several
    /// lines the last counts, and a proxy that writes something else than one address is itself the
    /// client. `X-Forwarded-For` and `Forwarded` are read as
    /// [`x_forwarded_for`](Self::x_forwarded_for) and [`forwarded`](Self::forwarded) read them.
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

    /// IPv6 addresses count by networks of this length, 0 to 128 bits (what is above counts as 128), instead of 64: 56 or 48
    /// where customers hold that much, 128 for single addresses.
    pub fn ipv6_prefix(self, bits: u8) -> ClientIpConfig {
        ClientIpConfig { ipv6_prefix: bits.min(128), ..self }
    }

    /// The name of the header that is looked at, if one is, in lower case.
    pub fn header_name(&self) -> Option<&str> {
        self.proxies.as_ref().map(|proxies| match &proxies.header {
            Header::XForwardedFor => "x-forwarded-for",
            Header::Forwarded => "forwarded",
            Header::Address(name) => name,
        })
    }

    /// The client of a request that came from the address `peer`, with these values of
    /// [`header_name`](Self::header_name), in their order.
    ///
    /// Where a proxy does not say for whom it asks, or says `unknown`, `_hidden` or something that is no address, the proxy
    /// itself is the client. Where all that is said are proxies, the first of them is.
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
            // A proxy that writes one address has seen that client itself: what stands in front of
            // it is the client's own.
            let lines = lines.into_iter().rev().take(if is_list { usize::MAX } else { 1 });
            let mut hops = lines.flat_map(|line| match proxies.header {
                Header::XForwardedFor => hops::x_forwarded_for(line),
                Header::Forwarded => hops::forwarded(line),
                Header::Address(_) => hops::address(line),
            });
            // Each hop was written by the one to its right, and is believed only if that is a proxy of ours.
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

/// `10.0.0.0/8`, or an address by itself. An IPv4-mapped one is the IPv4 address that it is compared as.
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

/// A text that is no network (`10.0.0.0/8`, `fd00::/8`) and no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNetwork(Box<str>);

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no network and no address: write one as in `10.0.0.0/8`, `fd00::/8` or `203.0.113.7`",
            self.0
        )
    }
}

impl Error for InvalidNetwork {}

/// A token of RFC 9110.
fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

/// What [`ClientIpConfig::header`] cannot be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidClientIpConfig {
    /// No header has that name.
    HeaderName(Box<str>),
    /// No network and no address.
    Network(InvalidNetwork),
}

impl fmt::Display for InvalidClientIpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidClientIpConfig::HeaderName(name) => {
                write!(f, "{name:?} is no name of a header: write one as in `X-Real-IP`")
            }
            InvalidClientIpConfig::Network(network) => network.fmt(f),
        }
    }
}

impl Error for InvalidClientIpConfig {}

/// The address of a client is not known. As a response: 500, because the server is set up wrongly.
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
