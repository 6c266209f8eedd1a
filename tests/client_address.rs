//! Clients cannot forge their address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use ratelimit_runtime::{ClientIp, ClientIpConfig, ExactIp, Limit, RateLimitKey, RateLimiter};

const PROXIES: [&str; 4] = ["10.0.0.0/8", "fd00::/8", "203.0.113.7", "2001:db8:ffff::/48"];

fn x_forwarded_for() -> ClientIpConfig {
    ClientIpConfig::x_forwarded_for(PROXIES).unwrap()
}

fn forwarded() -> ClientIpConfig {
    ClientIpConfig::forwarded(PROXIES).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn client(config: &ClientIpConfig, peer: &str, lines: &[&str]) -> String {
    config.resolve(ip(peer), lines.iter().map(|line| line.as_bytes())).to_string()
}

/// Whether the two keys share a bucket.
fn share<A: RateLimitKey, B: RateLimitKey>(a: A, b: B) -> bool {
    let limiter = RateLimiter::builder("").limit(Limit::new(1, Duration::from_secs(60))).build().unwrap();
    limiter.reset(&a).unwrap();
    limiter.reset(&b).unwrap();
    limiter.check(a, 1).unwrap();
    limiter.check(b, 1).is_err()
}

#[test]
fn the_peer_is_the_client_by_default() {
    let config = ClientIpConfig::default();
    assert_eq!(config.header_name(), None);
    assert_eq!(client(&config, "198.51.100.1", &["1.2.3.4"]), "198.51.100.1");
}

#[test]
fn only_trusted_proxies_are_believed() {
    assert_eq!(client(&x_forwarded_for(), "198.51.100.1", &["1.2.3.4"]), "198.51.100.1");
    assert_eq!(client(&forwarded(), "198.51.100.1", &["for=1.2.3.4"]), "198.51.100.1");
}

#[test]
fn the_client_is_the_right_most_untrusted_address() {
    let config = x_forwarded_for();
    for (lines, expected) in [
        (&["198.51.100.1"][..], "198.51.100.1"),
        (&["1.2.3.4, 198.51.100.1"], "198.51.100.1"),
        (&["10.1.1.1, 198.51.100.1, 203.0.113.7 , 10.2.2.2"], "198.51.100.1"),
        (&["1.2.3.4", "198.51.100.1,10.9.9.9"], "198.51.100.1"),
        (&["1.2.3.4, 198.51.100.1", "10.9.9.9", "fd00::1"], "198.51.100.1"),
        (&[",198.51.100.1, ,"], "198.51.100.1"),
        (&["198.51.100.1:4711"], "198.51.100.1"),
        (&["[2001:db8::1]:4711"], "2001:db8::1"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["::ffff:198.51.100.1"], "198.51.100.1"),
        (&["198.51.100.1, ::ffff:10.0.0.9"], "198.51.100.1"),
        (&["198.51.100.1, 2001:db8:ffff:7::1"], "198.51.100.1"),
    ] {
        assert_eq!(client(&config, "10.0.0.1", lines), expected, "{lines:?}");
        assert_eq!(client(&config, "::ffff:10.0.0.1", lines), expected, "{lines:?}");
    }
}

#[test]
fn forwarded_is_read_as_its_rfc_writes_it() {
    let config = forwarded();
    for (lines, expected) in [
        (&["for=198.51.100.1"][..], "198.51.100.1"),
        (&["For=\"198.51.100.1:4711\";proto=http;by=10.0.0.1"], "198.51.100.1"),
        (&["proto=http;host=\"a,b;for=1.2.3.4\";for=198.51.100.1"], "198.51.100.1"),
        (&["for=\"[2001:db8::1]\""], "2001:db8::1"),
        (&["for=\"[2001:db8::1]:_port\""], "2001:db8::1"),
        (&["for=\"\\[2001:db8::1\\]\""], "2001:db8::1"),
        (&["for=1.2.3.4, for=198.51.100.1 , for=10.3.3.3; proto=https"], "198.51.100.1"),
        (&["for=1.2.3.4", "for=198.51.100.1, for=10.3.3.3"], "198.51.100.1"),
        (&["for=198.51.100.1;"], "198.51.100.1"),
        (&[";for=198.51.100.1"], "198.51.100.1"),
        (&["proto=http; ;for=198.51.100.1; ; "], "198.51.100.1"),
        (&["for=\"198.51.100.1\" ; ; by=10.0.0.1"], "198.51.100.1"),
        (&["for=198.51.100.1;host=\"\\\",for=1.2.3.4,\\\"\""], "198.51.100.1"),
        (&["for=198.51.100.1;host=\"\\\",for=1.2.3.4\\\\\""], "198.51.100.1"),
    ] {
        assert_eq!(client(&config, "10.0.0.1", lines), expected, "{lines:?}");
    }
}

#[test]
fn a_header_of_one_address_is_believed_from_the_proxies_only() {
    for name in ["X-Real-IP", "cf-connecting-ip", "True-Client-IP", "Fly-Client-IP"] {
        let config = ClientIpConfig::header(name, PROXIES).unwrap();
        assert_eq!(config.header_name(), Some(&*name.to_ascii_lowercase()));
        for (lines, expected) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            (&[" 198.51.100.1:4711 "], "198.51.100.1"),
            (&["[2001:db8::1]:443"], "2001:db8::1"),
            // The proxy adds a line of its own to the client's.
            (&["1.2.3.4", "198.51.100.1"], "198.51.100.1"),
            (&["1.2.3.4", "10.2.2.2"], "10.2.2.2"),
            (&[], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["1.2.3.4, 198.51.100.1"], "10.0.0.1"),
            (&["for=198.51.100.1"], "10.0.0.1"),
            (&["1.2.3.4", "unknown"], "10.0.0.1"),
        ] {
            assert_eq!(client(&config, "10.0.0.1", lines), expected, "{name} {lines:?}");
            assert_eq!(client(&config, "198.51.100.7", lines), "198.51.100.7", "{name} {lines:?}");
        }
    }
}

#[test]
fn the_lists_by_name_are_read_as_lists() {
    let by_name = ClientIpConfig::header("X-Forwarded-For", PROXIES).unwrap();
    assert_eq!(client(&by_name, "10.0.0.1", &["1.2.3.4, 198.51.100.1, 10.2.2.2"]), "198.51.100.1");
    let by_name = ClientIpConfig::header("FORWARDED", PROXIES).unwrap();
    assert_eq!(client(&by_name, "10.0.0.1", &["for=1.2.3.4, for=198.51.100.1"]), "198.51.100.1");
}

#[test]
fn a_header_that_cannot_be_is_an_error() {
    for name in ["", "x real ip", "x-real-ip:", "x-r\u{e9}al-ip", "x-real-ip\r\nevil"] {
        let error = ClientIpConfig::header(name, PROXIES).unwrap_err();
        assert!(error.to_string().contains("is not the name of a header"), "{error}");
    }
    let error = ClientIpConfig::header("x-real-ip", ["example.com"]).unwrap_err();
    assert!(error.to_string().contains("\"example.com\""), "{error}");
}

#[test]
fn a_hop_without_an_address_makes_the_proxy_the_client() {
    for hop in
        ["unknown", "_hidden", "198.51.100.1x", "198.51.100.1:port", "198.51.100.1:99999", "[::1", "[1.2.3.4]", "1.2.3"]
    {
        assert_eq!(
            client(&x_forwarded_for(), "10.0.0.1", &[&format!("1.2.3.4, {hop}, 10.2.2.2")]),
            "10.2.2.2",
            "{hop}"
        );
        let line = format!("for=1.2.3.4, for=\"{hop}\", for=10.2.2.2");
        assert_eq!(client(&forwarded(), "10.0.0.1", &[&line]), "10.2.2.2", "{hop}");
    }
    for element in [
        "proto=http",
        "for",
        "for=1.1.1.1;for=2.2.2.2",
        "for=\"1.1.1.1\"x",
        "for=\"1.1.1.1",
        "=",
        ";",
        ";for",
        "for=1.1.1.1;;for=2.2.2.2",
    ] {
        let line = format!("{element}, for=10.2.2.2");
        assert_eq!(client(&forwarded(), "10.0.0.1", &[&line]), "10.2.2.2", "{element}");
    }
}

#[test]
fn an_open_quote_swallows_nothing_to_its_right() {
    for spoofed in ["for=\"", "for=\"1.2.3.4", "\"", "for=\\", "for=\"\\", "for=\"a\"b\""] {
        let line = format!("{spoofed}, for=198.51.100.1, for=10.3.3.3");
        assert_eq!(client(&forwarded(), "10.0.0.1", &[&line]), "198.51.100.1", "{spoofed}");
    }
}

#[test]
fn a_proxys_own_request_is_the_proxys() {
    assert_eq!(client(&x_forwarded_for(), "10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(client(&x_forwarded_for(), "10.0.0.1", &["10.0.0.4, 10.0.0.3"]), "10.0.0.4");
}

#[test]
fn an_invalid_network_is_an_error() {
    for text in ["", "10.0.0.0/33", "10.0.0", "example.com", "::ffff:10.0.0.0/104"] {
        let error = ClientIpConfig::x_forwarded_for([text]).unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

fn of(config: &ClientIpConfig, address: &str) -> ClientIp {
    config.resolve(ip(address), [])
}

#[test]
fn a_client_shares_the_bucket_of_its_address() {
    let config = ClientIpConfig::peer();
    assert!(share(of(&config, "198.51.100.1"), ip("198.51.100.1")));
    assert!(share(of(&config, "::ffff:198.51.100.1"), ip("198.51.100.1")));
    assert!(share(of(&config, "2001:db8::1"), ip("2001:db8::2:0:0:1")));
}

#[test]
fn an_ipv6_client_counts_by_its_network() {
    let addresses = ["2001:db8:1:1::1", "2001:db8:1:1:8000::1", "2001:db8:1:2::1", "2001:db8:2::1", "4001::"];
    for (prefix, shared) in [
        (None, [true, false, false, false]),
        (Some(64), [true, false, false, false]),
        (Some(65), [false, false, false, false]),
        (Some(48), [true, true, false, false]),
        (Some(32), [true, true, true, false]),
        (Some(0), [true, true, true, true]),
        (Some(128), [false, false, false, false]),
        (Some(255), [false, false, false, false]),
    ] {
        let config = prefix.map_or_else(ClientIpConfig::peer, |bits| ClientIpConfig::peer().ipv6_prefix(bits));
        let shares = |other| share(of(&config, addresses[0]), of(&config, other));
        assert_eq!([shares(addresses[1]), shares(addresses[2]), shares(addresses[3]), shares(addresses[4])], shared);
        // IPv4 is not affected.
        assert!(!share(of(&config, "198.51.100.1"), of(&config, "198.51.100.2")));
    }
}

#[test]
fn a_network_is_not_the_address_that_it_begins_with() {
    let config = ClientIpConfig::peer().ipv6_prefix(48);
    assert!(!share(of(&config, "2001:db8:1::"), ExactIp(ip("2001:db8:1::"))));
    assert!(!share(of(&config, "2001:db8:1::"), of(&ClientIpConfig::peer().ipv6_prefix(56), "2001:db8:1::")));
}

// Clients may write anything. Proxies append the address of their peer.

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
    ]
}

fn trusted() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits & 0x00ff_ffff | 0x0a00_0000))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits >> 8 | 0xfd << 120))),
        Just(ip("203.0.113.7")),
        Just(ip("::ffff:203.0.113.7")),
    ]
}

fn untrusted() -> impl Strategy<Value = IpAddr> {
    any_address().prop_filter("trusted", |address| match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[0] != 10 && v4.to_string() != "203.0.113.7",
        IpAddr::V6(v6) => v6.octets()[0] != 0xfd && v6.segments()[..3] != [0x2001, 0xdb8, 0xffff],
    })
}

/// A client's own header: lines of noise from the characters that matter to the parser.
fn noise() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        any_address().prop_map(|address| address.to_string().into_bytes()),
        vec(prop::sample::select(b",;=\" \\[]:.\tfor_1a".to_vec()), 0..6),
        vec(any::<u8>(), 0..4),
        Just(b"for=".to_vec()),
        Just(b"for=\"".to_vec()),
        Just(b"10.0.0.1".to_vec()),
        Just(b", ".to_vec()),
        Just(b"unknown".to_vec()),
    ];
    vec(vec(piece, 0..12).prop_map(|pieces| pieces.concat()), 0..4)
}

/// A hop, in one of the styles in which proxies write it.
fn written(address: IpAddr, style: u8, in_forwarded: bool) -> String {
    let bracketed = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let node = match style % 3 {
        0 if !in_forwarded => address.to_string(),
        0 | 1 => bracketed,
        _ => format!("{bracketed}:{}", u16::from(style) * 100),
    };
    if !in_forwarded {
        return node;
    }
    let quoted = if address.is_ipv4() && style % 3 != 2 { node } else { format!("\"{node}\"") };
    match style % 4 {
        0 => format!("for={quoted}"),
        1 => format!("FOR={quoted};proto=https;by=_me"),
        2 => format!("host=\"a, \\\"for=1.2.3.4, b\\\" \\\\\";For={quoted}"),
        _ => format!("by=\"[::1]:80\";for={quoted}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn without_trusted_proxies_headers_never_matter(peer in any_address(), lines in noise()) {
        let lines = || lines.iter().map(Vec::as_slice);
        prop_assert_eq!(ClientIpConfig::peer().resolve(peer, lines()).address(), peer.to_canonical());
        let none: [&str; 0] = [];
        for config in [ClientIpConfig::x_forwarded_for(none), ClientIpConfig::forwarded(none)] {
            prop_assert_eq!(config.unwrap().resolve(peer, lines()).address(), peer.to_canonical());
        }
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_writes(peer in untrusted(), lines in noise()) {
        for config in [x_forwarded_for(), forwarded()] {
            prop_assert_eq!(config.resolve(peer, lines.iter().map(Vec::as_slice)).address(), peer.to_canonical());
        }
    }

    /// A client sends noise. The first proxy appends the client's address, each further proxy its
    /// predecessor's, to the last line or as a new line.
    #[test]
    fn behind_proxies_the_client_is_the_first_ones_peer(
        caller in untrusted(),
        proxies in vec((trusted(), any::<u8>(), any::<bool>()), 1..5),
        lines in noise(),
        in_forwarded in any::<bool>(),
    ) {
        let mut lines = lines;
        let mut from = caller;
        for &(proxy, style, own_line) in &proxies {
            let hop = written(from, style, in_forwarded);
            match lines.last_mut() {
                Some(last) if !own_line => last.extend_from_slice(format!(", {hop}").as_bytes()),
                _ => lines.push(hop.into_bytes()),
            }
            from = proxy;
        }
        let config = if in_forwarded { forwarded() } else { x_forwarded_for() };
        let found = config.resolve(from, lines.iter().map(Vec::as_slice)).address();
        prop_assert_eq!(found, caller.to_canonical(), "{:?}", lines.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>());
    }

    /// An oracle for well-formed headers that reads from the left.
    #[test]
    fn a_well_formed_header_is_read_as_by_another_parser(
        hops in vec((any_address(), any::<u8>()), 1..6),
        peer in trusted(),
    ) {
        let line = hops.iter().map(|&(hop, style)| written(hop, style | 1, true)).collect::<Vec<_>>().join(", ");
        let parsed: Vec<IpAddr> = rfc7239::parse(&line)
            .map(|element| match element.unwrap().forwarded_for.unwrap().name {
                rfc7239::NodeName::Ip(address) => address.to_canonical(),
                name => panic!("{name}"),
            })
            .collect();
        let is_trusted = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.octets()[0] == 10 || v4.to_string() == "203.0.113.7",
            IpAddr::V6(v6) => v6.octets()[0] == 0xfd || v6.segments()[..3] == [0x2001, 0xdb8, 0xffff],
        };
        let expected = parsed.iter().rev().find(|address| !is_trusted(address)).unwrap_or(&parsed[0]);
        prop_assert_eq!(forwarded().resolve(peer, [line.as_bytes()]).address(), *expected);
    }
}
