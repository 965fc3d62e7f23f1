//! Names, their synthetic addresses, and the real addresses they are pinned to.
//!
//! A name that the gate allows gets a number for the whole session, and with it a synthetic address
//! in each family (see `addresses`). The real addresses are looked up in the host's namespace and
//! kept; they change only when the agent asks again after [`PIN`], so between its question and its
//! connection the meaning of an address does not move. Nothing here trusts a real address: the gate
//! judges each one before it is dialled.
//!
//! Every table is bounded, and new names are rate limited: a query for a wildcard-allowed name is a
//! channel to its name server, and memory belongs to the wall.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    EgressConfig, Gate, Lookup, Verdict,
    addresses::{CAPACITY, canonical, synthetic_v4, synthetic_v6},
};

/// How long real addresses are kept before a new question looks them up again.
pub(crate) const PIN: Duration = Duration::from_secs(60);
/// How long a refusal or an empty answer is repeated without asking again.
const NEGATIVE: Duration = Duration::from_secs(2);
const MAX_NEGATIVE: usize = 1024;
const MAX_ADDRESSES: usize = 16;
/// New names: a burst, then so many per second.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 50.0;

/// What the resolver answers for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Allowed. A family without an address is empty, not an error.
    Addresses {
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    },
    /// The gate refused it; the text is its reason.
    Blocked(String),
    /// Allowed, but there is no such name.
    NotFound,
    /// Not answerable now.
    Unavailable,
}

/// The names of one session.
pub(crate) struct Names {
    gate: Arc<dyn Gate>,
    lookup: Lookup,
    own: HashSet<String>,
    state: Mutex<State>,
    landed: Condvar,
}

struct State {
    numbers: HashMap<Arc<str>, u32>,
    /// The number of the first entry.
    first: u32,
    entries: Vec<Entry>,
    negative: HashMap<String, (Instant, Answer)>,
    /// Names that some thread is asking about; others wait for it.
    in_flight: HashSet<String>,
    /// How often the gate's answers changed; an older answer is asked for again.
    answers: u64,
    budget: f64,
    refilled: Instant,
}

struct Entry {
    name: Arc<str>,
    addresses: Vec<IpAddr>,
    fresh_until: Instant,
    /// [`State::answers`] when the gate allowed the name.
    allowed_at: u64,
}

impl Names {
    pub(crate) fn new(gate: Arc<dyn Gate>, config: &EgressConfig) -> Self {
        Names {
            gate,
            lookup: config.lookup.clone(),
            own: config
                .own_names
                .iter()
                .map(|n| n.to_ascii_lowercase())
                .collect(),
            state: Mutex::new(State {
                numbers: HashMap::new(),
                first: config.first_name,
                entries: Vec::new(),
                negative: HashMap::new(),
                in_flight: HashSet::new(),
                answers: 0,
                budget: BURST,
                refilled: Instant::now(),
            }),
            landed: Condvar::new(),
        }
    }

    /// The answer if it needs no gate, no lookup and no waiting.
    pub(crate) fn known(&self, name: &str) -> Option<Answer> {
        if name == "localhost" || name.ends_with(".localhost") || self.own.contains(name) {
            return Some(Answer::Addresses {
                v4: Some(Ipv4Addr::LOCALHOST),
                v6: Some(Ipv6Addr::LOCALHOST),
            });
        }
        self.lock().known(name, Instant::now())
    }

    /// The answer; may block on the gate and on the host's resolver. `name` is valid
    /// ([`valid`]), lower-case, without a trailing dot.
    pub(crate) fn resolve(&self, name: &str) -> Answer {
        if let Some(answer) = self.known(name) {
            return answer;
        }
        let mut state = self.lock();
        while state.in_flight.contains(name) {
            state = self
                .landed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let now = Instant::now();
        if let Some(answer) = state.known(name, now) {
            return answer;
        }
        let is_new = !state.numbers.contains_key(name);
        let answers = state.answers;
        let ask = is_new || state.is_outdated(name);
        if is_new && (!state.spend(now) || state.next() >= CAPACITY) {
            return Answer::Unavailable;
        }
        state.in_flight.insert(name.to_owned());
        drop(state);
        let flight = Flight { names: self, name };

        let answer = if ask && let Verdict::Deny(reason) = self.gate.resolve(name) {
            Err(Answer::Blocked(reason))
        } else {
            match self.lookup.addresses(name) {
                Ok(found) => Ok(usable(found)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Answer::NotFound),
                Err(_) => Err(Answer::Unavailable),
            }
        };
        let mut state = self.lock();
        let answer = state.settle(name, answer, answers, Instant::now());
        drop(state);
        drop(flight);
        answer
    }

    /// The gate answers by other rules from here on: every name is asked about again. Addresses that
    /// were given out keep their meaning.
    pub(crate) fn ask_again(&self) {
        let mut state = self.lock();
        state.answers += 1;
        state.negative.clear();
    }

    /// What the synthetic address with this number means: name and real addresses.
    pub(crate) fn target(&self, number: u32, ipv4: bool) -> Option<(Option<String>, Vec<IpAddr>)> {
        let state = self.lock();
        let entry = state.entry(number)?;
        let candidates: Vec<_> = entry
            .addresses
            .iter()
            .copied()
            .filter(|ip| ip.is_ipv4() == ipv4)
            .collect();
        (!candidates.is_empty()).then(|| (Some(entry.name.to_string()), candidates))
    }

    /// The name with this number.
    pub(crate) fn name(&self, number: u32) -> Option<Arc<str>> {
        self.lock().entry(number).map(|e| e.name.clone())
    }

    /// The number of the next new name.
    pub(crate) fn next(&self) -> u32 {
        self.lock().next()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a question even if the gate panics, so that nobody waits for ever.
struct Flight<'a> {
    names: &'a Names,
    name: &'a str,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.names.lock().in_flight.remove(self.name);
        self.names.landed.notify_all();
    }
}

impl State {
    fn next(&self) -> u32 {
        let count = u32::try_from(self.entries.len()).unwrap_or(CAPACITY);
        self.first.saturating_add(count)
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number.checked_sub(self.first)? as usize)
    }

    fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        (self.entries).get_mut(number.checked_sub(self.first)? as usize)
    }

    fn known(&mut self, name: &str, now: Instant) -> Option<Answer> {
        if let Some((until, answer)) = self.negative.get(name)
            && now < *until
        {
            return Some(answer.clone());
        }
        let number = *self.numbers.get(name)?;
        let entry = self.entry(number)?;
        (now < entry.fresh_until && entry.allowed_at == self.answers).then(|| entry.answer(number))
    }

    /// Whether a known name was allowed by other rules than those that hold now.
    fn is_outdated(&self, name: &str) -> bool {
        let known = self.numbers.get(name).and_then(|n| self.entry(*n));
        known.is_some_and(|entry| entry.allowed_at != self.answers)
    }

    /// `answers`: [`State::answers`] when the gate was asked.
    fn settle(
        &mut self,
        name: &str,
        found: Result<Vec<IpAddr>, Answer>,
        answers: u64,
        now: Instant,
    ) -> Answer {
        let number = self.numbers.get(name).copied();
        match (found, number) {
            (Ok(addresses), Some(number)) => {
                let Some(entry) = self.entry_mut(number) else {
                    return Answer::Unavailable;
                };
                if !addresses.is_empty() {
                    entry.addresses = addresses;
                }
                entry.fresh_until = now + PIN;
                entry.allowed_at = answers;
                entry.answer(number)
            }
            (Err(answer @ Answer::Blocked(_)), Some(_)) => self.refuse(name, answer, answers, now),
            // The name was real before: keep its pins while the host's resolver has trouble.
            (Err(_), Some(number)) => {
                let Some(entry) = self.entry_mut(number) else {
                    return Answer::Unavailable;
                };
                entry.fresh_until = now + NEGATIVE;
                entry.allowed_at = answers;
                entry.answer(number)
            }
            (Ok(addresses), None) if !addresses.is_empty() => {
                let number = self.next();
                if number >= CAPACITY {
                    return Answer::Unavailable;
                }
                let name: Arc<str> = name.into();
                let entry = Entry {
                    name: name.clone(),
                    addresses,
                    fresh_until: now + PIN,
                    allowed_at: answers,
                };
                let answer = entry.answer(number);
                self.numbers.insert(name, number);
                self.entries.push(entry);
                answer
            }
            (Ok(_), None) => {
                let none = Answer::Addresses { v4: None, v6: None };
                self.refuse(name, none, answers, now)
            }
            (Err(answer), None) => self.refuse(name, answer, answers, now),
        }
    }

    fn refuse(&mut self, name: &str, answer: Answer, answers: u64, now: Instant) -> Answer {
        // A refusal by rules that no longer hold is not repeated.
        if answers != self.answers {
            return answer;
        }
        if self.negative.len() >= MAX_NEGATIVE {
            self.negative.clear();
        }
        self.negative
            .insert(name.to_owned(), (now + NEGATIVE, answer.clone()));
        answer
    }

    fn spend(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.refilled).as_secs_f64() * PER_SECOND;
        self.budget = (self.budget + earned).min(BURST);
        self.refilled = now;
        if self.budget < 1.0 {
            return false;
        }
        self.budget -= 1.0;
        true
    }
}

impl Entry {
    fn answer(&self, number: u32) -> Answer {
        let has = |v4| self.addresses.iter().any(|ip| ip.is_ipv4() == v4);
        Answer::Addresses {
            v4: has(true).then(|| synthetic_v4(number)),
            v6: has(false).then(|| synthetic_v6(number)),
        }
    }
}

/// Drops duplicates, and addresses of a family the host has no route for: an agent that prefers
/// IPv6 would otherwise try it in vain on every connection.
fn usable(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in found.into_iter().map(canonical) {
        if !addresses.contains(&ip) && addresses.len() < MAX_ADDRESSES {
            addresses.push(ip);
        }
    }
    let routed: Vec<_> = addresses
        .iter()
        .copied()
        .filter(|ip| has_route(*ip))
        .collect();
    if routed.is_empty() { addresses } else { routed }
}

/// Whether the host has a route. Connecting a datagram socket sends nothing.
fn has_route(ip: IpAddr) -> bool {
    let any: SocketAddr = match ip {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any)
        .and_then(|s| s.connect((ip, 53)))
        .is_ok()
}

/// Whether a text is a host name that the wall resolves: ASCII letters, digits, `-` and `_` in
/// labels of 1 to 63, at most 253 in all (RFC 1123, section 2.1; `_` as used in practice), and not
/// something that a resolver would read as an address (`127.1`, `0x7f000001`).
pub(crate) fn valid(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default().as_bytes();
    let numeric = match last {
        [b'0', b'x' | b'X', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    };
    name.len() <= 253 && name.split('.').all(label) && !numeric
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
