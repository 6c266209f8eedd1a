//! Charges several keys, each by the limits that share it.

use std::sync::Arc;

use super::super::core::{Core, Each};
use super::Charging;
use crate::decision::Decision;
use crate::error::BackendError;
use crate::key::RateLimitKey;
use crate::keys::RateLimitKeys;
use crate::keys::sealed::Visit;

/// Charges in progress, by the part of each.
pub(crate) struct ChargingEach(Vec<(usize, Charging)>);

/// Charges each key that has a limit.
struct Charges<'a> {
    each: &'a Each,
    cost: u32,
    is_async: bool,
    all: Vec<(usize, Charging)>,
}

impl Visit for Charges<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        let part = &self.each.parts[index];
        if !part.is_off() {
            self.all.push((index, part.core.start_charge(key, self.cost, self.is_async)));
        }
    }
}

impl Core {
    /// Charges in memory. For buckets in a backend, returns the requests.
    pub(crate) fn start_charge_each<K: RateLimitKeys>(
        self: &Arc<Core>,
        keys: &K,
        cost: u32,
        is_async: bool,
    ) -> Result<ChargingEach, BackendError> {
        // A limiter that is called while its backend is being made has nothing to charge.
        let Some(each) = self.each() else { return Ok(ChargingEach(Vec::new())) };
        if each.len() != K::LEN {
            let message = format!("{} keys to charge, but the limits have {} keys", K::LEN, each.len());
            return Err(BackendError::configuration(message));
        }
        let mut charges = Charges { each, cost, is_async, all: Vec::new() };
        keys.each(&mut charges);
        Ok(ChargingEach(charges.all))
    }

    /// The decision after the parts were charged: that of the limit with the fewest permits left.
    fn charged_each(self: &Arc<Core>, charged: Vec<(usize, Decision)>) -> Decision {
        let (each, written) = (self.made_each(), self.groups().len());
        let whole = |(part, decision): (usize, Decision)| {
            let own = usize::from(decision.position);
            let position = each.map_or(0, |each| each.parts[part].position(own, written));
            Decision { position, ..decision }
        };
        let least = charged.into_iter().map(whole).min_by_key(|decision| (decision.remaining, decision.position));
        least.unwrap_or_else(|| self.nothing_charged())
    }
}

impl ChargingEach {
    /// Sends all requests, even if one fails.
    pub(crate) fn finish(self, core: &Arc<Core>) -> Result<Decision, BackendError> {
        let send = |(part, charging)| match charging {
            Charging::Done(decision) => Ok((part, decision)),
            Charging::Sending(request) => {
                let charged = request.send(core)?;
                Ok((part, charged.unwrap_or_else(|| core.nothing_charged())))
            }
        };
        let all: Vec<Result<_, BackendError>> = self.0.into_iter().map(send).collect();
        all.into_iter().collect::<Result<_, _>>().map(|charged| core.charged_each(charged))
    }

    pub(crate) async fn finish_async(self, core: &Arc<Core>) -> Result<Decision, BackendError> {
        let mut all: Vec<Result<_, BackendError>> = Vec::new();
        for (part, charging) in self.0 {
            all.push(match charging {
                Charging::Done(decision) => Ok((part, decision)),
                Charging::Sending(request) => {
                    let charged = request.send_async(core).await;
                    charged.map(|decision| (part, decision.unwrap_or_else(|| core.nothing_charged())))
                }
            });
        }
        all.into_iter().collect::<Result<_, _>>().map(|charged| core.charged_each(charged))
    }
}
