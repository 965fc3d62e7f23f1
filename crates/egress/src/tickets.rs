//! Tickets: connections that were decided before the proxy saw them.
//!
//! When the supervisor traps `connect(2)`, it decides there, where it can give the agent a proper
//! errno, and announces the decision here. The proxy then neither asks nor logs a second time. A
//! ticket is worth one connection to one original address, and dies after ten seconds.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const LIFETIME: Duration = Duration::from_secs(10);
const CAPACITY: usize = 4096;

/// A connection that the supervisor has allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The real addresses that were allowed, in the order in which to try them.
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Default)]
pub(crate) struct Tickets {
    held: Mutex<HashMap<SocketAddr, VecDeque<(Instant, Ticket)>>>,
}

impl Tickets {
    /// Adds a ticket. When too many are held the ticket is dropped: the proxy then asks the gate.
    pub(crate) fn put(&self, original: SocketAddr, ticket: Ticket, now: Instant) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.values().map(VecDeque::len).sum::<usize>() >= CAPACITY / 2 {
            held.retain(|_, queue| {
                queue.retain(|(issued, _)| now.duration_since(*issued) < LIFETIME);
                !queue.is_empty()
            });
            if held.values().map(VecDeque::len).sum::<usize>() >= CAPACITY {
                return;
            }
        }
        held.entry(original).or_default().push_back((now, ticket));
    }

    /// No connection is decided any more: the proxy asks the gate about each.
    pub(crate) fn clear(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clear();
    }

    /// Takes the oldest living ticket for this address.
    pub(crate) fn take(&self, original: SocketAddr, now: Instant) -> Option<Ticket> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = held.get_mut(&original)?;
        let mut taken = None;
        while let Some((issued, ticket)) = queue.pop_front() {
            if now.duration_since(issued) < LIFETIME {
                taken = Some(ticket);
                break;
            }
        }
        if queue.is_empty() {
            held.remove(&original);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_and_mortal() {
        let tickets = Tickets::default();
        let (a, b) = (
            "198.18.0.2:443".parse().unwrap(),
            "198.18.0.2:80".parse().unwrap(),
        );
        let ticket = Ticket {
            addresses: vec!["1.2.3.4".parse().unwrap()],
        };
        let now = Instant::now();
        tickets.put(a, ticket.clone(), now);
        tickets.put(a, ticket.clone(), now + Duration::from_secs(8));
        assert_eq!(tickets.take(b, now), None);
        assert_eq!(tickets.take(a, now), Some(ticket.clone()));
        assert_eq!(
            tickets.take(a, now + Duration::from_secs(12)),
            Some(ticket.clone())
        );
        assert_eq!(tickets.take(a, now), None);
        tickets.put(a, ticket.clone(), now);
        assert_eq!(tickets.take(a, now + LIFETIME), None);
        tickets.put(a, ticket, now);
        tickets.clear();
        assert_eq!(tickets.take(a, now), None);
        assert!(tickets.held.lock().unwrap().is_empty());
    }

    #[test]
    fn bounded() {
        let tickets = Tickets::default();
        let now = Instant::now();
        let a = "198.18.0.2:443".parse().unwrap();
        for _ in 0..2 * CAPACITY {
            tickets.put(
                a,
                Ticket {
                    addresses: Vec::new(),
                },
                now,
            );
        }
        assert_eq!(tickets.held.lock().unwrap()[&a].len(), CAPACITY);
    }
}
