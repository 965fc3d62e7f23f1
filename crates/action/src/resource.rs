//! Resources: canonical objects that actions are done to.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{VerbFamily, escape_bytes, escape_text};

/// What a path names, as far as the face knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// Not looked at, or it does not exist yet.
    #[default]
    Unknown,
    /// A directory. `dir/**` matches the directory itself as well as what is in it.
    Directory,
    /// A regular file, link, FIFO, socket or device.
    File,
}

/// An absolute path with symlinks, `.` and `..` resolved, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PathResource {
    /// The path.
    #[serde(with = "crate::path_bytes")]
    pub path: PathBuf,
    /// What it names.
    #[serde(default)]
    pub kind: ObjectKind,
}

impl PathResource {
    /// The path as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

/// Whether a path is `dir` or lies below it: [`Path::starts_with`] for absolute paths without `.`,
/// `..` and repeated slashes, at the cost of comparing bytes.
pub fn is_within(path: &Path, dir: &Path) -> bool {
    let dir = dir.as_os_str().as_bytes();
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    let rest = path.as_os_str().as_bytes().strip_prefix(dir);
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The transport of an [`Endpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The URL scheme, `tcp` or `udp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A network endpoint. `host` is the name under which the agent knows the address (what the wall's
/// resolver answered), `ip` where the connection really goes; at least one of them is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The transport.
    pub protocol: Protocol,
    /// Lower-case ASCII (punycode) without a trailing dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The address, never IPv4-mapped IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// The canonical object of an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A path (`file.*`, `process.*`, `device.*`).
    Path(PathResource),
    /// A network endpoint (`net.*`).
    Endpoint(Endpoint),
    /// A host name (`dns.resolve`).
    Host(String),
    /// A Unix socket by its canonical path (`ipc.connect`). Abstract names begin with `@`.
    Unix(#[serde(with = "crate::path_bytes")] PathBuf),
    /// Anything named by text: `capability:transfer:eu`, a tool, a URL.
    Named(String),
}

impl Resource {
    /// A path, made absolute-lexical (`.` and `..` removed, symlinks not looked at).
    pub fn path(path: impl AsRef<Path>) -> Self {
        Resource::Path(PathResource {
            path: lexical(path.as_ref()),
            kind: ObjectKind::Unknown,
        })
    }

    /// Like [`Resource::path`] for a known directory.
    pub fn directory(path: impl AsRef<Path>) -> Self {
        Resource::Path(PathResource {
            path: lexical(path.as_ref()),
            kind: ObjectKind::Directory,
        })
    }

    /// An endpoint by address.
    pub fn address(protocol: Protocol, ip: IpAddr, port: u16) -> Self {
        Resource::Endpoint(Endpoint {
            protocol,
            host: None,
            ip: Some(unmap(ip)),
            port,
        })
    }

    /// Reads the textual form a person writes in tests and on the command line: a path,
    /// `tcp://host:port`, `udp://…`, `unix:/path`, `dns:name`, or for named verbs any text.
    ///
    /// # Errors
    /// Another form than the family has, and a host name with an empty label (`a..b`, `a..`): it
    /// names nothing, and mending it would make it another name.
    pub fn parse(family: VerbFamily, text: &str) -> Result<Self, ResourceParseError> {
        let wrong = |expected: &'static str| ResourceParseError {
            text: text.to_owned(),
            expected,
        };
        match family {
            VerbFamily::File | VerbFamily::Process | VerbFamily::Device => {
                if !text.starts_with('/') {
                    return Err(wrong("an absolute path"));
                }
                let mut resource = Resource::path(text);
                if let (Resource::Path(p), true) = (&mut resource, text.ends_with('/')) {
                    p.kind = ObjectKind::Directory;
                }
                Ok(resource)
            }
            VerbFamily::Net => {
                let (protocol, rest) = if let Some(rest) = text.strip_prefix("tcp://") {
                    (Protocol::Tcp, rest)
                } else if let Some(rest) = text.strip_prefix("udp://") {
                    (Protocol::Udp, rest)
                } else {
                    return Err(wrong("tcp://host:port or udp://host:port"));
                };
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or_else(|| wrong("a port after the host"))?;
                let port = port.parse().map_err(|_| wrong("a port from 0 to 65535"))?;
                let address = host.strip_suffix('.').unwrap_or(host);
                let bare = address
                    .strip_prefix('[')
                    .and_then(|h| h.strip_suffix(']'))
                    .unwrap_or(address);
                Ok(match bare.parse::<IpAddr>() {
                    Ok(ip) => Resource::address(protocol, ip, port),
                    Err(_) => Resource::Endpoint(Endpoint {
                        protocol,
                        host: Some(canonical_host(host).ok_or_else(|| wrong(HOST))?),
                        ip: None,
                        port,
                    }),
                })
            }
            VerbFamily::Dns => canonical_host(text.strip_prefix("dns:").unwrap_or(text))
                .map(Resource::Host)
                .ok_or_else(|| wrong(HOST)),
            VerbFamily::Ipc => {
                let path = text
                    .strip_prefix("unix:")
                    .ok_or_else(|| wrong("unix:/path"))?;
                Ok(Resource::Unix(if path.starts_with('@') {
                    path.into()
                } else {
                    lexical(Path::new(path))
                }))
            }
            VerbFamily::Named => Ok(Resource::Named(text.to_owned())),
        }
    }
}

/// Shows the canonical text, escaped so that it is safe on a terminal.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Path(p) => f.write_str(&escape_bytes(p.as_bytes())),
            Resource::Endpoint(e) => {
                write!(f, "{}://", e.protocol.as_str())?;
                match (&e.host, e.ip) {
                    (Some(host), _) => write!(f, "{}", escape_text(host))?,
                    (None, Some(IpAddr::V4(ip))) => write!(f, "{ip}")?,
                    (None, Some(IpAddr::V6(ip))) => write!(f, "[{ip}]")?,
                    (None, None) => f.write_str("?")?,
                }
                write!(f, ":{}", e.port)
            }
            Resource::Host(name) => write!(f, "dns:{}", escape_text(name)),
            Resource::Unix(path) => {
                write!(f, "unix:{}", escape_bytes(path.as_os_str().as_bytes()))
            }
            Resource::Named(name) => f.write_str(&escape_text(name)),
        }
    }
}

/// The text is not a resource of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceParseError {
    /// What was given.
    pub text: String,
    /// What was expected.
    pub expected: &'static str,
}

impl fmt::Display for ResourceParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected {}, found '{}'",
            self.expected,
            escape_text(&self.text)
        )
    }
}

impl std::error::Error for ResourceParseError {}

/// What a host name is, for messages.
const HOST: &str = "a host name without an empty part";

/// Lower-case, without the one trailing dot that stands for the root (RFC 1034, section 3.1); nothing
/// when a label is empty. Punycode is the caller's business: the wall sees names on the wire, where
/// they are ASCII already.
fn canonical_host(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let whole = name.split('.').all(|label| !label.is_empty());
    whole.then(|| name.to_ascii_lowercase())
}

/// Unwraps `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
fn unmap(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => Ipv6Addr::to_ipv4_mapped(&v6).map_or(ip, IpAddr::V4),
        v4 => v4,
    }
}

fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let net = |t: &str| Resource::parse(VerbFamily::Net, t).unwrap().to_string();
        assert_eq!(net("tcp://Example.COM.:443"), "tcp://example.com:443");
        assert_eq!(net("tcp://[::ffff:10.0.0.1]:80"), "tcp://10.0.0.1:80");
        assert_eq!(net("udp://[::1]:53"), "udp://[::1]:53");
        assert_eq!(net("udp://[0::1].:53"), "udp://[::1]:53");
        let file = |t: &str| Resource::parse(VerbFamily::File, t).unwrap().to_string();
        assert_eq!(file("/tmp/../etc//./x"), "/etc/x");
        assert!(Resource::parse(VerbFamily::Net, "example.com").is_err());
        let dns = |t: &str| Resource::parse(VerbFamily::Dns, t).map(|r| r.to_string());
        assert_eq!(dns("A.example."), Ok("dns:a.example".to_owned()));
        for name in ["", ".", "..", "a..", "a..b", ".a", "a..."] {
            assert!(dns(name).is_err(), "{name}");
            let endpoint = format!("tcp://{name}:443");
            assert!(
                Resource::parse(VerbFamily::Net, &endpoint).is_err(),
                "{name}"
            );
        }
        assert!(Resource::parse(VerbFamily::File, "relative").is_err());
    }
}
