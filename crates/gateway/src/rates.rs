//! What strangers may do, by the address they come from.
//!
//! Whoever has a token of a known key is counted by budgets. Before that there is only the address: of IPv4 one, of IPv6
//! the /64 that one subscriber has. Addresses of this host are not counted: a proxy on it stands for all its clients, and
//! whoever is on it has other ways.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use http::{StatusCode, request::Parts};

use crate::{
    answer::{Next, Refusal},
    serve::Peer,
};

/// Requests of one address in a minute that nobody's key has signed. Then none is read for a while but those that name an agent
/// or a host that is here.
pub const UNSIGNED: Rate = Rate {
    most: 30,
    within: Duration::from_secs(60),
    what: "requests without a valid token",
};

/// Hosts that nobody knows which register from one address, in an hour.
pub const NEWCOMERS: Rate = Rate {
    most: 5,
    within: Duration::from_secs(3600),
    what: "registrations of new hosts",
};

/// Addresses whose counts are kept. While they are this many, no unknown host of another one registers.
const MAX_ADDRESSES: usize = 65_536;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    most: u32,
    within: Duration,
    what: &'static str,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Rates {
    all: Mutex<HashMap<(IpAddr, &'static str), Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    within: Duration,
    times: u32,
}

impl Rates {
    /// Whether it may happen now; it is counted by [`Rates::count`].
    ///
    /// # Errors
    /// It happened too often.
    pub fn check(&self, rate: Rate, peer: Option<Peer>, now: Instant) -> Result<(), Box<Refusal>> {
        let Some(address) = counted(peer) else {
            return Ok(());
        };
        match self.lock().get(&(address, rate.what)) {
            Some(count) if count.times >= rate.most && now < count.since + count.within => {
                Err(refused(rate, count.since + count.within - now))
            }
            _ => Ok(()),
        }
    }

    /// It happened.
    ///
    /// # Errors
    /// It happened too often, or there is no room to count it.
    pub fn count(&self, rate: Rate, peer: Option<Peer>, now: Instant) -> Result<(), Box<Refusal>> {
        self.check(rate, peer, now)?;
        let Some(address) = counted(peer) else {
            return Ok(());
        };
        let mut all = self.lock();
        let key = (address, rate.what);
        if !all.contains_key(&key) && all.len() >= MAX_ADDRESSES {
            all.retain(|_, count| now < count.since + count.within);
            if all.len() >= MAX_ADDRESSES {
                return Err(refused(rate, rate.within));
            }
        }
        let fresh = Count {
            since: now,
            within: rate.within,
            times: 0,
        };
        let count = all.entry(key).or_insert(fresh);
        if now >= count.since + count.within {
            *count = fresh;
        }
        count.times += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(IpAddr, &'static str), Count>> {
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Where a request came from, if that is known.
pub(crate) fn peer(parts: &Parts) -> Option<Peer> {
    parts.extensions.get::<Peer>().copied()
}

fn counted(peer: Option<Peer>) -> Option<IpAddr> {
    match peer? {
        Peer::Local => None,
        Peer::Ip(ip) => match ip.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(v4) => Some(v4.into()),
            IpAddr::V6(v6) => Some(Ipv6Addr::from(u128::from(v6) >> 64 << 64).into()),
        },
    }
}

fn refused(rate: Rate, left: Duration) -> Box<Refusal> {
    let text = format!(
        "from this address came {} {} within {} s",
        rate.most,
        rate.what,
        rate.within.as_secs()
    );
    let mut refusal = Refusal::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        "too-many-from-address",
        text,
    );
    refusal.retry_after = Some(left);
    refusal.next.push(Next::Wait(left));
    Box::new(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Option<Peer> {
        Some(Peer::Ip(address.parse().unwrap()))
    }

    #[test]
    fn an_address_has_its_rate_and_no_other_one_loses_by_it() {
        let (rates, now) = (Rates::default(), Instant::now());
        for _ in 0..NEWCOMERS.most {
            rates.count(NEWCOMERS, at("192.0.2.1"), now).unwrap();
        }
        let refusal = rates
            .count(NEWCOMERS, at("192.0.2.1"), now + Duration::from_secs(600))
            .unwrap_err();
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(3000)));
        assert!(rates.check(NEWCOMERS, at("::ffff:192.0.2.1"), now).is_err());
        assert!(rates.count(NEWCOMERS, at("192.0.2.2"), now).is_ok());
        assert!(rates.check(UNSIGNED, at("192.0.2.1"), now).is_ok());
        assert!(
            rates
                .count(NEWCOMERS, at("192.0.2.1"), now + NEWCOMERS.within)
                .is_ok()
        );
    }

    #[test]
    fn a_subscriber_of_ipv6_has_one_address_and_this_host_none() {
        let (rates, now) = (Rates::default(), Instant::now());
        for number in 0..NEWCOMERS.most {
            rates
                .count(NEWCOMERS, at(&format!("2001:db8::{number}")), now)
                .unwrap();
        }
        assert!(rates.count(NEWCOMERS, at("2001:db8::ffff:1"), now).is_err());
        assert!(rates.count(NEWCOMERS, at("2001:db8:0:1::1"), now).is_ok());
        for peer in [
            at("127.0.0.1"),
            at("::1"),
            at("::ffff:127.0.0.1"),
            Some(Peer::Local),
            None,
        ] {
            for _ in 0..100 {
                assert!(rates.count(NEWCOMERS, peer, now).is_ok());
            }
        }
    }
}
