//! Resource patterns: what `resource:` may say, read for the verbs of its rule.
//!
//! A pattern belongs to one kind of object: a path, an endpoint, addresses, a Unix socket, a host
//! name, a label, or a name. Which kind is plain from its text (`tcp://`, `cidr:`, `unix:`, `dns:`,
//! `label:`, a leading `/`), so that a rule means the same whoever reads it; a text that fits none of
//! the rule's verbs is refused, with the likely intention. `*` and `**` alone mean any object.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};

use agentwall_action::{Endpoint, Facts, ObjectKind, Protocol, Resource, Verb, VerbFamily};

use crate::{
    address::{Addresses, Network},
    glob::{Glob, GlobError, GlobKind},
    host_executed::{HOST_EXECUTED, host_executed_globs},
    secret::{secret_globs, secret_socket_globs},
    vars::Variables,
};

/// One member of a `resource:` list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ResourcePattern {
    /// `*` or `**`: any object.
    Any,
    /// An absolute path.
    Path(Glob),
    /// `tcp://…` or `udp://…`.
    Endpoint(EndpointPattern),
    /// `cidr:…`: any endpoint with such an address, whatever the protocol and port.
    Addresses(Addresses),
    /// `unix:…`; abstract names begin with `@`.
    Unix(UnixPattern),
    /// `dns:…`.
    Host(Glob),
    /// `label:…`.
    Label(LabelPattern),
    /// A name: a tool, a capability, a URL, a peer, a credential.
    Named(Glob),
}

/// `tcp://host:port`.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointPattern {
    /// The transport.
    pub protocol: Protocol,
    /// Which hosts.
    pub host: HostPattern,
    /// Which ports, both ends included.
    pub ports: RangeInclusive<u16>,
}

/// The host of an endpoint pattern.
#[derive(Debug, Clone, PartialEq)]
pub enum HostPattern {
    /// Any name and any address.
    Any,
    /// A glob over the name by which the agent knows the host.
    Name(Glob),
    /// The address the connection goes to.
    Addresses(Addresses),
}

/// A Unix socket.
#[derive(Debug, Clone, PartialEq)]
pub enum UnixPattern {
    /// Any socket, with or without a path.
    Any,
    /// A socket with a path.
    Path(Glob),
    /// An abstract socket; the glob includes the leading `@`.
    Abstract(Glob),
}

/// `label:NAME`.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelPattern {
    /// The name.
    pub name: String,
    /// The built-in places of the label: paths. Only `secret` and `host-executed` have some.
    pub paths: Arc<[Glob]>,
    /// The built-in places of the label that are only connected to.
    pub sockets: Arc<[Glob]>,
}

/// What a member of a list turned out to be wrong about, with the offset in its text.
pub(crate) type PatternError = GlobError;

/// What reading a pattern needs to know.
#[derive(Debug, Clone)]
pub(crate) struct PatternContext<'a> {
    pub variables: &'a Variables,
    /// The verbs the pattern must fit; empty means that the kind follows from the text alone.
    pub verbs: &'a [Verb],
    /// The built-in places of `label:secret`, shared by all patterns that say it.
    secret_paths: Arc<[Glob]>,
    secret_sockets: Arc<[Glob]>,
}

impl<'a> PatternContext<'a> {
    pub fn new(variables: &'a Variables) -> Self {
        PatternContext {
            variables,
            verbs: &[],
            secret_paths: secret_globs(variables).into(),
            secret_sockets: secret_socket_globs().into(),
        }
    }

    /// The same for other verbs.
    pub fn for_verbs<'b>(&self, verbs: &'b [Verb]) -> PatternContext<'b>
    where
        'a: 'b,
    {
        PatternContext {
            verbs,
            ..self.clone()
        }
    }

    fn has(&self, family: impl Fn(VerbFamily) -> bool) -> bool {
        self.verbs.iter().any(|v| family(v.family()))
    }
}

fn on_paths(family: VerbFamily) -> bool {
    matches!(
        family,
        VerbFamily::File | VerbFamily::Process | VerbFamily::Device
    )
}

impl ResourcePattern {
    /// Reads one member of a list, without its leading `!`.
    pub(crate) fn parse(text: &str, context: &PatternContext<'_>) -> Result<Self, PatternError> {
        if text == "*" || text == "**" {
            return Ok(ResourcePattern::Any);
        }
        let named = context.has(|f| f == VerbFamily::Named);
        let only_named = named && !context.has(|f| f != VerbFamily::Named);
        if let Some(name) = text.strip_prefix("label:") {
            return label(name, context);
        }
        let pattern = if only_named {
            named_pattern(text, context)?
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            ResourcePattern::Endpoint(endpoint(Protocol::Tcp, rest)?)
        } else if let Some(rest) = text.strip_prefix("udp://") {
            ResourcePattern::Endpoint(endpoint(Protocol::Udp, rest)?)
        } else if let Some(rest) = text.strip_prefix("cidr:") {
            ResourcePattern::Addresses(Addresses::parse(rest).map_err(
                |(message, suggestion)| GlobError {
                    offset: 5,
                    message,
                    suggestion: suggestion.map(|s| match s.contains("'") {
                        true => s,
                        false => format!("cidr:{s}"),
                    }),
                },
            )?)
        } else if let Some(rest) = text.strip_prefix("unix:") {
            ResourcePattern::Unix(unix(rest, context).map_err(|e| shift(e, 5))?)
        } else if let Some(rest) = text.strip_prefix("dns:") {
            ResourcePattern::Host(host_glob(rest).map_err(|e| shift(e, 4))?)
        } else if looks_like_path(text) {
            let expanded = context.variables.expand_pattern(text)?;
            let glob =
                Glob::new(&expanded, GlobKind::Path).map_err(|e| keep(e, text, &expanded))?;
            ResourcePattern::Path(glob)
        } else if named {
            named_pattern(text, context)?
        } else {
            return Err(no_kind(text, context));
        };
        pattern.check_fits(text, context)?;
        Ok(pattern)
    }

    /// Whether the resource is one this pattern means.
    pub fn matches(&self, resource: &Resource, facts: &Facts) -> bool {
        match (self, resource) {
            (ResourcePattern::Any, _) => true,
            (ResourcePattern::Label(label), _) => label.matches(resource, facts),
            (ResourcePattern::Path(glob), Resource::Path(p)) => {
                glob.matches(p.as_bytes(), p.kind == ObjectKind::Directory)
            }
            (ResourcePattern::Endpoint(pattern), Resource::Endpoint(e)) => pattern.matches(e),
            (ResourcePattern::Addresses(addresses), Resource::Endpoint(e)) => {
                effective_addresses(e).any(|ip| addresses.contains(ip))
            }
            (ResourcePattern::Unix(pattern), Resource::Unix(path)) => pattern.matches(path),
            (ResourcePattern::Host(glob), Resource::Host(name)) => {
                glob.matches(name.as_bytes(), false)
            }
            (ResourcePattern::Named(glob), Resource::Named(name)) => {
                glob.matches(name.as_bytes(), false)
            }
            _ => false,
        }
    }

    /// Whether objects of this kind exist for verbs of the family.
    pub fn fits(&self, family: VerbFamily) -> bool {
        match self {
            ResourcePattern::Any | ResourcePattern::Label(_) => true,
            ResourcePattern::Path(_) => on_paths(family),
            ResourcePattern::Endpoint(_) | ResourcePattern::Addresses(_) => {
                family == VerbFamily::Net
            }
            ResourcePattern::Unix(_) => family == VerbFamily::Ipc,
            ResourcePattern::Host(_) => family == VerbFamily::Dns,
            ResourcePattern::Named(_) => family == VerbFamily::Named,
        }
    }

    /// What kind of object it means, for messages.
    fn kind(&self) -> &'static str {
        match self {
            ResourcePattern::Any => "anything",
            ResourcePattern::Path(_) => "a path",
            ResourcePattern::Endpoint(_) => "an endpoint",
            ResourcePattern::Addresses(_) => "an address set",
            ResourcePattern::Unix(_) => "a Unix socket",
            ResourcePattern::Host(_) => "a host name",
            ResourcePattern::Label(_) => "a label",
            ResourcePattern::Named(_) => "a name",
        }
    }

    fn check_fits(&self, text: &str, context: &PatternContext<'_>) -> Result<(), PatternError> {
        if context.verbs.is_empty() || context.verbs.iter().any(|v| self.fits(v.family())) {
            return Ok(());
        }
        let verb = context.verbs[0];
        let error = GlobError::new(0, format!("{} never fits the action {verb}", self.kind()));
        Err(match expected(verb.family(), text) {
            Some(s) => error.suggest(s),
            None => error,
        })
    }
}

impl EndpointPattern {
    fn matches(&self, e: &Endpoint) -> bool {
        self.protocol == e.protocol && self.ports.contains(&e.port) && self.host.matches(e)
    }
}

impl HostPattern {
    /// Whether the endpoint's host is meant: names match names, addresses match addresses, and a
    /// loopback address that has no name is also `localhost`.
    pub fn matches(&self, e: &Endpoint) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Name(glob) => match (&e.host, e.ip) {
                (Some(host), _) => glob.matches(host.as_bytes(), false),
                (None, Some(ip)) => ip.is_loopback() && glob.matches(b"localhost", false),
                (None, None) => false,
            },
            HostPattern::Addresses(a) => effective_addresses(e).any(|ip| a.contains(ip)),
        }
    }
}

impl UnixPattern {
    fn matches(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        let named = bytes.starts_with(b"@");
        match self {
            UnixPattern::Any => true,
            UnixPattern::Path(glob) => !named && glob.matches(bytes, false),
            UnixPattern::Abstract(glob) => named && glob.matches(bytes, false),
        }
    }
}

impl LabelPattern {
    fn matches(&self, resource: &Resource, facts: &Facts) -> bool {
        if facts.labels.contains(&self.name) {
            return true;
        }
        match resource {
            Resource::Path(p) => {
                let directory = p.kind == ObjectKind::Directory;
                self.paths
                    .iter()
                    .any(|g| g.matches(p.as_bytes(), directory))
            }
            Resource::Unix(path) => {
                let bytes = path.as_os_str().as_bytes();
                let mut places = self.paths.iter().chain(self.sockets.iter());
                places.any(|g| g.matches(bytes, false))
            }
            _ => false,
        }
    }
}

/// Whether the name is bound to loopback (RFC 6761, section 6.3).
pub(crate) fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// The addresses an endpoint stands for. A name that is bound to loopback by RFC 6761 stands for
/// both loopback addresses until the real one is known, so that a deny of loopback sees it.
fn effective_addresses(e: &Endpoint) -> impl Iterator<Item = IpAddr> {
    let host = e.host.as_deref().unwrap_or("");
    let named = match e.ip {
        Some(_) => Vec::new(),
        None if is_local_name(host) => vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
        None => host.parse().into_iter().collect(),
    };
    e.ip.into_iter().chain(named)
}

fn shift(mut error: GlobError, by: usize) -> GlobError {
    error.offset += by;
    error
}

/// An offset in expanded text is no offset in the file.
fn keep(mut error: GlobError, text: &str, expanded: &str) -> GlobError {
    if text != expanded {
        error.offset = 0;
    }
    error
}

fn looks_like_path(text: &str) -> bool {
    let scheme = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.' | '_'))
        .is_some_and(|at| at > 0 && text[at..].starts_with(':'));
    !scheme && text.starts_with(['/', '~', '*', '{', '?', '[']) || text.starts_with("${")
}

fn label(name: &str, context: &PatternContext<'_>) -> Result<ResourcePattern, PatternError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(valid) {
        return Err(GlobError::new(
            6,
            "a label is one name of letters, digits, '-', '_' and '.'",
        )
        .suggest("label:secret"));
    }
    let (paths, sockets) = match name {
        "secret" => (
            Arc::clone(&context.secret_paths),
            Arc::clone(&context.secret_sockets),
        ),
        HOST_EXECUTED => (host_executed_globs(), [].into()),
        _ => ([].into(), [].into()),
    };
    Ok(ResourcePattern::Label(LabelPattern {
        name: name.to_owned(),
        paths,
        sockets,
    }))
}

fn named_pattern(
    text: &str,
    context: &PatternContext<'_>,
) -> Result<ResourcePattern, PatternError> {
    let expanded = if text.contains("${") {
        context.variables.expand_pattern(text)?
    } else {
        text.to_owned()
    };
    Glob::new(&expanded, GlobKind::Text)
        .map(ResourcePattern::Named)
        .map_err(|e| keep(e, text, &expanded))
}

fn unix(text: &str, context: &PatternContext<'_>) -> Result<UnixPattern, PatternError> {
    if text == "*" || text == "**" {
        return Ok(UnixPattern::Any);
    }
    if text.starts_with('@') {
        return Glob::new(text, GlobKind::Text).map(UnixPattern::Abstract);
    }
    let expanded = context.variables.expand_pattern(text)?;
    Glob::new(&expanded, GlobKind::Path)
        .map(UnixPattern::Path)
        .map_err(|e| keep(e, text, &expanded))
}

fn host_glob(text: &str) -> Result<Glob, PatternError> {
    if let Some(at) = text.find(|c: char| !c.is_ascii()) {
        return Err(GlobError::new(at, "a host name pattern is ASCII")
            .suggest("the punycode form, such as xn--bcher-kva.example"));
    }
    if let Some(at) = text.find(|c: char| {
        !c.is_ascii_alphanumeric()
            && !matches!(
                c,
                '-' | '_' | '.' | '*' | '?' | '[' | ']' | '!' | '{' | '}' | ','
            )
    }) {
        return Err(GlobError::new(
            at,
            format!("a host name has no '{}'", &text[at..at + 1]),
        ));
    }
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    Glob::new(host, GlobKind::Host)
}

fn endpoint(protocol: Protocol, rest: &str) -> Result<EndpointPattern, PatternError> {
    let start = "tcp://".len();
    let wrong = |at: usize, message: String, suggestion: Option<String>| GlobError {
        offset: start + at,
        message,
        suggestion,
    };
    let (host, port) = if let Some(after) = rest.strip_prefix('[') {
        let (inside, tail) = after.split_once(']').ok_or_else(|| {
            wrong(
                0,
                "'[' is not closed".into(),
                Some(format!("{}://[::1]:443", protocol.as_str())),
            )
        })?;
        match tail.strip_prefix(':') {
            Some(port) => (inside, Some((port, inside.len() + 3))),
            None if tail.is_empty() => (inside, None),
            None => {
                return Err(wrong(
                    inside.len() + 2,
                    "expected ':' and a port".into(),
                    None,
                ));
            }
        }
    } else {
        if rest.matches(':').count() > 1 {
            return Err(wrong(
                0,
                "an IPv6 address stands in brackets".into(),
                Some(format!("{}://[::1]:443", protocol.as_str())),
            ));
        }
        match rest.split_once(':') {
            Some((host, port)) => (host, Some((port, host.len() + 1))),
            None => (rest, None),
        }
    };
    let ports = match port {
        None | Some(("*", _)) => 0..=u16::MAX,
        Some((text, at)) => ports(text).map_err(|(m, s)| wrong(at, m, s))?,
    };
    let bracketed = rest.starts_with('[');
    let host = if host == "*" || host == "**" {
        HostPattern::Any
    } else if bracketed || (host.starts_with(|c: char| c.is_ascii_digit()) && numeric(host)) {
        if host.contains(['*', '?']) {
            return Err(wrong(
                0,
                "addresses are matched by network, not by glob".into(),
                Some(format!("{}://10.0.0.0/8:443", protocol.as_str())),
            ));
        }
        let network = Network::parse(host).map_err(|(m, s)| wrong(usize::from(bracketed), m, s))?;
        HostPattern::Addresses(Addresses::Network(network))
    } else if host.is_empty() {
        return Err(wrong(
            0,
            "the host is missing".into(),
            Some(format!("{}://*", protocol.as_str())),
        ));
    } else if let Some(at) = host.find('/') {
        return Err(wrong(
            at,
            "an endpoint has no path".into(),
            Some(format!("{}://{}", protocol.as_str(), &host[..at])),
        ));
    } else {
        HostPattern::Name(host_glob(host).map_err(|e| shift(e, start))?)
    };
    Ok(EndpointPattern {
        protocol,
        host,
        ports,
    })
}

/// Digits, dots, a prefix length, glob stars: an address, not a name.
fn numeric(host: &str) -> bool {
    host.chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | '/' | '*' | '?'))
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, (String, Option<String>)> {
    let number = |t: &str| {
        (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
            .then(|| t.parse::<u16>().ok())
            .flatten()
            .ok_or_else(|| {
                (
                    format!("a port is a number from 0 to 65535, a range or '*', found '{t}'"),
                    Some("443, 8000-8999 or *".to_owned()),
                )
            })
    };
    match text.split_once('-') {
        None => number(text).map(|p| p..=p),
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                return Err((
                    "the port range is the wrong way round".into(),
                    Some(format!("{high}-{low}")),
                ));
            }
            Ok(low..=high)
        }
    }
}

/// A text that is no pattern of any kind the rule's verbs have.
fn no_kind(text: &str, context: &PatternContext<'_>) -> PatternError {
    let family = context
        .verbs
        .first()
        .map_or(VerbFamily::File, |v| v.family());
    let scheme = text.split_once(':').map(|(s, _)| s);
    const SCHEMES: [&str; 6] = ["tcp", "udp", "cidr", "unix", "dns", "label"];
    if let Some(near) = scheme.and_then(|s| crate::diagnostic::nearest(s, SCHEMES))
        && scheme.is_some_and(|s| s != near)
    {
        let rest = &text[scheme.unwrap_or_default().len()..];
        return GlobError::new(0, "not a path, and not a known scheme")
            .suggest(format!("{near}{rest}"));
    }
    let error = GlobError::new(0, "a path pattern begins with '/', '~/', '**/' or '${'");
    match expected(family, text) {
        Some(s) => error.suggest(s),
        None => error,
    }
}

/// The likely intention behind a pattern that does not fit.
fn expected(family: VerbFamily, text: &str) -> Option<String> {
    let bare = text
        .trim_start_matches("tcp://")
        .trim_start_matches("udp://")
        .trim_start_matches("dns:")
        .trim_start_matches("unix:");
    let host_like =
        !bare.is_empty() && !bare.contains('/') && bare.contains('.') || bare.contains(':');
    Some(match family {
        VerbFamily::Net if host_like && bare.contains(':') => format!("tcp://{bare}"),
        VerbFamily::Net if host_like => format!("tcp://{bare}:443"),
        VerbFamily::Net => "tcp://host:port, udp://host:port or cidr:private".into(),
        VerbFamily::Dns if host_like => {
            format!("dns:{}", bare.split(':').next().unwrap_or(bare))
        }
        VerbFamily::Dns => "dns:*.example.org".into(),
        VerbFamily::Ipc if bare.starts_with(['/', '@', '*', '$', '~']) => format!("unix:{bare}"),
        VerbFamily::Ipc => "unix:/run/name.sock or unix:@name".into(),
        VerbFamily::File | VerbFamily::Process | VerbFamily::Device => {
            if bare.starts_with('/') {
                bare.to_owned()
            } else if host_like && bare.contains(':') {
                format!("tcp://{bare} with action net.connect, or a path such as /usr/**")
            } else if !text.contains("://") && !bare.contains(':') {
                format!("${{workspace}}/{bare} or **/{bare}")
            } else {
                "a path such as /usr/**".into()
            }
        }
        VerbFamily::Named => return None,
    })
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
