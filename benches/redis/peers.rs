//! The comparison: plain redis-rs, and peers that have a Redis store.

use std::time::Duration;

use actix_limitation::Limiter;
use redis::aio::MultiplexedConnection;
use redis::{Client, Script};

use super::rounds::Tasks;
use super::server::RedisServer;

pub(crate) const KEYS: u64 = 10_000;

/// GCRA as usually written: a theoretical arrival time in microseconds, as text.
pub(crate) const GCRA: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = tonumber(redis.call('GET', KEYS[1]) or now)
if tat < now then tat = now end
local ahead = tat + interval - now
if ahead > burst then return burst - ahead end
redis.call('SET', KEYS[1], tat + interval, 'PX', math.ceil(ahead / 1000))
return math.floor((burst - ahead) / interval)
";

/// limitador's decision: reads the counter and its expiry in one script, and counts in another.
const LIMITADOR_READ: &str = "
local answer = {}
for _, key in ipairs(KEYS) do
  answer[#answer + 1] = redis.call('GET', key)
  answer[#answer + 1] = redis.call('PTTL', key)
end
return answer
";
const LIMITADOR_COUNT: &str = "
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
if count == tonumber(ARGV[2]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1], 'NX')
  redis.call('SADD', KEYS[2], KEYS[1])
end
return count
";

#[derive(Clone)]
pub(crate) struct Peers {
    connection: MultiplexedConnection,
    gcra: Script,
    limitador: (Script, Script),
    actix: Limiter,
}

impl Peers {
    pub(crate) fn new(server: &RedisServer, tasks: &Tasks) -> Peers {
        let client = Client::open(server.url()).unwrap();
        let connection = tasks.block_on(client.get_multiplexed_async_connection()).unwrap();
        let actix = Limiter::builder(server.url()).limit(1_000_000).period(Duration::from_secs(3_600)).build().unwrap();
        let limitador = (Script::new(LIMITADOR_READ), Script::new(LIMITADOR_COUNT));
        Peers { connection, gcra: Script::new(GCRA), limitador, actix }
    }

    pub(crate) async fn ping(mut self) -> bool {
        redis::cmd("PING").query_async::<()>(&mut self.connection).await.unwrap();
        true
    }

    /// 100,000 per hour.
    pub(crate) async fn gcra(mut self, key: u64) -> bool {
        let mut call = self.gcra.prepare_invoke();
        call.key(format!("gcra:{key}")).arg(36_000).arg(3_600_000_000_u64);
        call.invoke_async::<i64>(&mut self.connection).await.unwrap() >= 0
    }

    /// One per year.
    pub(crate) async fn gcra_denied(mut self, key: u64) -> bool {
        let mut call = self.gcra.prepare_invoke();
        call.key(format!("denied:{key}")).arg(31_536_000_000_000_u64).arg(31_536_000_000_000_u64);
        call.invoke_async::<i64>(&mut self.connection).await.unwrap() >= 0
    }

    pub(crate) async fn limitador(mut self, key: u64) -> bool {
        let (read, count) = &self.limitador;
        let mut asked = read.prepare_invoke();
        let name = format!("limitador:{key}");
        asked.key(&name);
        let (value, _): (Option<u64>, i64) = asked.invoke_async(&mut self.connection).await.unwrap();
        if value.unwrap_or(0) >= 1_000_000 {
            return false;
        }
        let mut counted = count.prepare_invoke();
        counted.key(&name).key("limitador:counters").arg(3_600).arg(1);
        counted.invoke_async::<u64>(&mut self.connection).await.unwrap();
        true
    }

    pub(crate) async fn actix(self, key: u64) -> bool {
        self.actix.count(format!("actix:{key}")).await.is_ok()
    }
}
