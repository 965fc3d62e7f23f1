//! The nf_tables rule set of the agent's namespace, as one nfnetlink batch.
//!
//! In `nft` notation, with the wall's ports filled in:
//!
//! ```text
//! table inet agentwall {
//!     chain loopback {
//!         tcp dport { the plan's host ports } redirect to :TCP
//!     }
//!     chain capture {
//!         type nat hook output priority -100
//!         meta mark 0x41570001 return
//!         udp dport 53 redirect to :DNS
//!         tcp dport 53 redirect to :DNS
//!         ip daddr 127.0.0.0/8 goto loopback
//!         ip6 daddr ::1 goto loopback
//!         ip daddr 198.18.0.1 return
//!         ip6 daddr fd41:6777::1 return
//!         meta l4proto tcp redirect to :TCP
//!     }
//!     chain guard {
//!         type filter hook output priority 0; policy drop
//!         ct state established,related accept
//!         (loopback and own addresses) accept
//!         reject with icmpx admin-prohibited
//!     }
//! }
//! ```
//!
//! A captured packet reaches `guard` with its destination already rewritten to loopback, so whatever
//! else still has a foreign destination there (UDP, ICMP, SCTP, untracked TCP) is refused. All or
//! nothing: the kernel applies a batch atomically.

use std::ops::RangeInclusive;

use super::{
    HostLoopback, INSIDE_MARK,
    netlink::{ACK, APPEND, CREATE, EXCL, Messages},
};
use crate::addresses::{OWN_V4, OWN_V6};

const TABLE: &str = "agentwall";
const CAPTURE: &str = "capture";
const LOOPBACK: &str = "loopback";
const GUARD: &str = "guard";

const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HOOK_OUTPUT: u32 = 3;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const GOTO: u32 = -4i32 as u32;
const RETURN: u32 = -5i32 as u32;

const META_MARK: u32 = 3;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const EQ: u32 = 0;
const NEQ: u32 = 1;
const LTE: u32 = 3;
const GTE: u32 = 5;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// The whole batch and the sequence number of the message whose acknowledgement ends it.
pub(super) fn batch(tcp: u16, dns: u16, host: &HostLoopback) -> (Messages, u32) {
    let mut m = Messages::default();
    m.begin(BATCH_BEGIN, 0, &[0, 0, 0, SUBSYSTEM as u8]);
    m.end();
    m.begin(NEW_TABLE, CREATE | EXCL, &[INET, 0, 0, 0]);
    m.text(1, TABLE);
    m.end();
    chain(&mut m, LOOPBACK, None);
    chain(&mut m, CAPTURE, Some(("nat", -100, ACCEPT)));
    chain(&mut m, GUARD, Some(("filter", 0, DROP)));

    for ports in host.ranges() {
        rule(&mut m, LOOPBACK, |e| {
            e.protocol(TCP);
            e.destination_ports(ports);
            e.redirect(tcp);
        });
    }
    rule(&mut m, CAPTURE, |e| {
        e.meta(META_MARK);
        e.compare(EQ, &INSIDE_MARK.to_ne_bytes());
        e.verdict(RETURN, None);
    });
    for protocol in [UDP, TCP] {
        rule(&mut m, CAPTURE, |e| {
            e.protocol(protocol);
            e.destination_ports(&(53..=53));
            e.redirect(dns);
        });
    }
    for (family, address) in loopback() {
        rule(&mut m, CAPTURE, |e| {
            e.destination(family, address);
            e.verdict(GOTO, Some(LOOPBACK));
        });
    }
    for (family, address) in own() {
        rule(&mut m, CAPTURE, |e| {
            e.destination(family, &address);
            e.verdict(RETURN, None);
        });
    }
    rule(&mut m, CAPTURE, |e| {
        e.protocol(TCP);
        e.redirect(tcp);
    });

    rule(&mut m, GUARD, |e| {
        e.connection_known();
        e.verdict(ACCEPT, None);
    });
    for (family, address) in loopback() {
        rule(&mut m, GUARD, |e| {
            e.destination(family, address);
            e.verdict(ACCEPT, None);
        });
    }
    for (family, address) in own() {
        rule(&mut m, GUARD, |e| {
            e.destination(family, &address);
            e.verdict(ACCEPT, None);
        });
    }
    let last = rule_with(&mut m, GUARD, ACK, |e| e.reject());
    m.begin(BATCH_END, 0, &[0, 0, 0, SUBSYSTEM as u8]);
    m.end();
    (m, last)
}

/// `127.0.0.0/8` by its first byte, `::1` whole.
fn loopback() -> [(u8, &'static [u8]); 2] {
    [
        (IPV4, &[127]),
        (IPV6, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ]
}

fn own() -> [(u8, Vec<u8>); 2] {
    [
        (IPV4, OWN_V4.octets().to_vec()),
        (IPV6, OWN_V6.octets().to_vec()),
    ]
}

fn chain(m: &mut Messages, name: &str, base: Option<(&str, i32, u32)>) {
    m.begin(NEW_CHAIN, CREATE | EXCL, &[INET, 0, 0, 0]);
    m.text(1, TABLE);
    m.text(3, name);
    if let Some((kind, priority, policy)) = base {
        m.nest(4, |m| {
            m.be32(1, HOOK_OUTPUT);
            m.be32(2, priority as u32);
        });
        m.be32(5, policy);
        m.text(7, kind);
    }
    m.end();
}

fn rule(m: &mut Messages, chain: &str, build: impl FnOnce(&mut Expressions)) {
    rule_with(m, chain, 0, build);
}

fn rule_with(
    m: &mut Messages,
    chain: &str,
    flags: u16,
    build: impl FnOnce(&mut Expressions),
) -> u32 {
    let seq = m.begin(NEW_RULE, CREATE | APPEND | flags, &[INET, 0, 0, 0]);
    m.text(1, TABLE);
    m.text(2, chain);
    m.nest(4, |m| build(&mut Expressions(m)));
    m.end();
    seq
}

/// The expressions of one rule; all of them go through register 1.
struct Expressions<'a>(&'a mut Messages);

impl Expressions<'_> {
    fn expression(&mut self, name: &str, attributes: impl FnOnce(&mut Messages)) {
        self.0.nest(1, |m| {
            m.text(1, name);
            m.nest(2, attributes);
        });
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |m| {
            m.be32(2, key);
            m.be32(1, 1);
        });
    }

    fn compare(&mut self, operation: u32, value: &[u8]) {
        self.expression("cmp", |m| {
            m.be32(1, 1);
            m.be32(2, operation);
            m.nest(3, |m| m.attribute(1, value));
        });
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |m| {
            m.be32(1, 1);
            m.be32(2, base);
            m.be32(3, offset);
            m.be32(4, length);
        });
    }

    fn protocol(&mut self, protocol: u8) {
        self.meta(META_L4PROTO);
        self.compare(EQ, &[protocol]);
    }

    fn destination(&mut self, family: u8, prefix: &[u8]) {
        self.meta(META_NFPROTO);
        self.compare(EQ, &[family]);
        let offset = if family == IPV4 { 16 } else { 24 };
        self.payload(NETWORK, offset, prefix.len() as u32);
        self.compare(EQ, prefix);
    }

    fn destination_ports(&mut self, ports: &RangeInclusive<u16>) {
        self.payload(TRANSPORT, 2, 2);
        if ports.start() == ports.end() {
            self.compare(EQ, &ports.start().to_be_bytes());
        } else {
            self.compare(GTE, &ports.start().to_be_bytes());
            self.compare(LTE, &ports.end().to_be_bytes());
        }
    }

    /// `ct state established,related`.
    fn connection_known(&mut self) {
        self.expression("ct", |m| {
            m.be32(1, 1);
            m.be32(2, 0);
        });
        self.expression("bitwise", |m| {
            m.be32(1, 1);
            m.be32(2, 1);
            m.be32(3, 4);
            m.nest(4, |m| m.attribute(1, &6u32.to_ne_bytes()));
            m.nest(5, |m| m.attribute(1, &0u32.to_ne_bytes()));
        });
        self.compare(NEQ, &0u32.to_ne_bytes());
    }

    fn redirect(&mut self, port: u16) {
        self.expression("immediate", |m| {
            m.be32(1, 1);
            m.nest(2, |m| m.attribute(1, &port.to_be_bytes()));
        });
        self.expression("redir", |m| {
            m.be32(1, 1);
            m.be32(2, 1);
            m.be32(3, 2);
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.expression("immediate", |m| {
            m.be32(1, 0);
            m.nest(2, |m| {
                m.nest(2, |m| {
                    m.be32(1, code);
                    if let Some(chain) = chain {
                        m.text(2, chain);
                    }
                });
            });
        });
    }

    /// `reject with icmpx admin-prohibited`.
    fn reject(&mut self) {
        self.expression("reject", |m| {
            m.be32(1, 2);
            m.attribute(2, &[3]);
        });
    }
}
