use ratelimit_runtime::RateLimitKey;

#[derive(RateLimitKey)]
struct Peer {
    id: u32,
    address: std::net::SocketAddr,
}

#[derive(RateLimitKey)]
struct Id(#[rate_limit_key(skip)] u32);

fn main() {}
