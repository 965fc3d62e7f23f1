//! Patterns as text: what an author would write for a loaded pattern, with variables expanded.
//!
//! Reports and proposals show patterns this way. The text is for people; it is escaped where it is
//! printed, not here.

use std::fmt;

use crate::pattern::{EndpointPattern, HostPattern, ResourcePattern, UnixPattern};

impl fmt::Display for ResourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResourcePattern::Any => f.write_str("**"),
            ResourcePattern::Path(glob) | ResourcePattern::Named(glob) => {
                f.write_str(glob.as_str())
            }
            ResourcePattern::Endpoint(endpoint) => endpoint.fmt(f),
            ResourcePattern::Addresses(addresses) => write!(f, "cidr:{addresses}"),
            ResourcePattern::Unix(UnixPattern::Any) => f.write_str("unix:*"),
            ResourcePattern::Unix(UnixPattern::Path(glob) | UnixPattern::Abstract(glob)) => {
                write!(f, "unix:{}", glob.as_str())
            }
            ResourcePattern::Host(glob) => write!(f, "dns:{}", glob.as_str()),
            ResourcePattern::Label(label) => write!(f, "label:{}", label.name),
        }
    }
}

impl fmt::Display for EndpointPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.protocol.as_str())?;
        match &self.host {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Name(glob) => f.write_str(glob.as_str())?,
            HostPattern::Addresses(addresses) => {
                let text = addresses.to_string();
                match text.contains(':') {
                    true => write!(f, "[{text}]")?,
                    false => f.write_str(&text)?,
                }
            }
        }
        let (low, high) = (*self.ports.start(), *self.ports.end());
        match (low, high) {
            (0, u16::MAX) => Ok(()),
            (low, high) if low == high => write!(f, ":{low}"),
            (low, high) => write!(f, ":{low}-{high}"),
        }
    }
}
