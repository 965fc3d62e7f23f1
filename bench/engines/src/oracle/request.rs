//! Requests: one object, as our action and as a Cedar request with everything in its context.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use agentwall_action::{
    Action, Auth, Endpoint, Facts, ObjectKind, PathResource, Protocol, Resource,
    Session as RunSession, Subject, Verb,
};
use cedar_policy::{Context, Entities, Entity, EntityUid, Request, RestrictedExpression as Value};

/// Who asks, and what holds for all its requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The subject, such as `agent:a`.
    pub subject: String,
    /// `auth.method`.
    pub auth: &'static str,
    /// `session.interactive`.
    pub interactive: bool,
    /// `session.name`.
    pub name: String,
    /// `session.workspace`.
    pub workspace: String,
    /// `labels`.
    pub labels: BTreeSet<&'static str>,
    /// `risk`.
    pub risk: u8,
    /// `time`; not 0, which would be absent.
    pub time: i64,
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A canonical path, and whether it is a directory.
    Path(String, bool),
    /// A socket: a canonical path, or a name that begins with `@`.
    Unix(String),
    /// A host name.
    Host(String),
    /// An endpoint; a host or an address is there.
    Endpoint {
        /// TCP, else UDP.
        tcp: bool,
        /// The name.
        host: Option<String>,
        /// The address.
        ip: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// A name.
    Named(String),
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub object: Object,
    /// `args.to`.
    pub to: Option<String>,
    /// `args.amount`.
    pub amount: Option<i64>,
}

impl Session {
    /// The facts of the session.
    pub fn facts(&self) -> Facts {
        Facts {
            auth: Auth {
                method: self.auth.into(),
            },
            session: RunSession {
                id: "s".into(),
                name: self.name.clone(),
                workspace: self.workspace.clone(),
                interactive: self.interactive,
            },
            labels: self.labels.iter().map(|l| (*l).to_owned()).collect(),
            risk: self.risk,
            time: self.time,
            ..Facts::default()
        }
    }
}

impl Ask {
    /// Our action.
    pub fn action(&self, session: &Session) -> Action {
        let resource = match &self.object {
            Object::Path(path, directory) => Resource::Path(PathResource {
                path: PathBuf::from(path),
                kind: match directory {
                    true => ObjectKind::Directory,
                    false => ObjectKind::File,
                },
            }),
            Object::Unix(path) => Resource::Unix(path.into()),
            Object::Host(name) => Resource::Host(name.clone()),
            Object::Endpoint {
                tcp,
                host,
                ip,
                port,
            } => Resource::Endpoint(Endpoint {
                protocol: if *tcp { Protocol::Tcp } else { Protocol::Udp },
                host: host.clone(),
                ip: *ip,
                port: *port,
            }),
            Object::Named(name) => Resource::Named(name.clone()),
        };
        let mut args = serde_json::Map::new();
        if let Some(to) = &self.to {
            args.insert("to".into(), to.as_str().into());
        }
        if let Some(amount) = self.amount {
            args.insert("amount".into(), amount.into());
        }
        Action {
            facts: Facts {
                args: args.into(),
                ..session.facts()
            },
            ..Action::new(Subject(session.subject.clone()), self.verb, resource)
        }
    }

    /// The Cedar request.
    pub fn cedar(&self, session: &Session) -> Result<Request, String> {
        let text = |t: &str| Value::new_string(t.to_owned());
        let labels = session.labels.iter().map(|l| text(l));
        let args = [
            ("to", self.to.as_deref().map(text)),
            ("amount", self.amount.map(Value::new_long)),
        ];
        let args = args
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?)));
        let mut context = vec![
            ("subject", text(&session.subject)),
            ("auth", text(session.auth)),
            ("interactive", Value::new_bool(session.interactive)),
            ("session", text(&session.name)),
            ("workspace", text(&session.workspace)),
            ("labels", Value::new_set(labels)),
            ("risk", Value::new_long(session.risk.into())),
            ("time", Value::new_long(session.time)),
            ("args", Value::new_record(args).map_err(|e| e.to_string())?),
        ];
        match &self.object {
            Object::Path(path, directory) => {
                let (dir, name) = path.rsplit_once('/').unwrap_or_default();
                context.extend([
                    ("path", text(path)),
                    ("path_dir", text(dir)),
                    ("path_name", text(name)),
                    ("directory", Value::new_bool(*directory)),
                ]);
            }
            Object::Unix(name) if name.starts_with('@') => context.push(("abstract", text(name))),
            Object::Unix(path) => {
                let (dir, name) = path.rsplit_once('/').unwrap_or_default();
                context.extend([
                    ("unix", text(path)),
                    ("unix_dir", text(dir)),
                    ("unix_name", text(name)),
                ]);
            }
            Object::Host(name) => context.push(("dns", text(name))),
            Object::Endpoint {
                tcp,
                host,
                ip,
                port,
            } => {
                context.push(("protocol", text(if *tcp { "tcp" } else { "udp" })));
                context.push(("port", Value::new_long((*port).into())));
                if let Some(host) = known_as(host.as_deref(), *ip) {
                    context.push(("host", text(host)));
                }
                for ip in addresses(host.as_deref(), *ip) {
                    let attribute = if ip.is_ipv4() { "ip4" } else { "ip6" };
                    context.push((attribute, Value::new_ip(ip.to_string())));
                }
            }
            Object::Named(name) => context.push(("name", text(name))),
        }
        let context = context.into_iter().map(|(k, v)| (k.to_owned(), v));
        let context = Context::from_pairs(context).map_err(|e| e.to_string())?;
        Request::new(
            uid("Agent", &session.subject)?,
            uid("Action", self.verb.as_str())?,
            uid("Object", "it")?,
            context,
            None,
        )
        .map_err(|e| e.to_string())
    }
}

/// The name a name pattern is about: a loopback address without one is `localhost`.
fn known_as(host: Option<&str>, ip: Option<IpAddr>) -> Option<&str> {
    match (host, ip) {
        (None, Some(ip)) if ip.is_loopback() => Some("localhost"),
        (host, _) => host,
    }
}

/// The addresses an address pattern is about: the real one, else what the name itself says.
fn addresses(host: Option<&str>, ip: Option<IpAddr>) -> Vec<IpAddr> {
    let host = host.unwrap_or_default();
    match ip {
        Some(ip) => vec![ip],
        None if host == "localhost" || host.ends_with(".localhost") => {
            vec![
                IpAddr::from([127, 0, 0, 1]),
                IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]),
            ]
        }
        None => host.parse().into_iter().collect(),
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = kind.parse().map_err(|e| format!("{kind}: {e}"))?;
    Ok(EntityUid::from_type_name_and_id(
        kind,
        cedar_policy::EntityId::new(id),
    ))
}

/// The actions and their groups.
pub fn entities() -> Result<Entities, String> {
    let mut all = Vec::new();
    let mut groups = BTreeSet::new();
    for verb in Verb::ALL {
        let group = verb.as_str().split('.').next().unwrap_or_default();
        let parents = [uid("Action", group)?].into();
        all.push(Entity::new_no_attrs(uid("Action", verb.as_str())?, parents));
        groups.insert(group);
    }
    for group in groups {
        all.push(Entity::new_no_attrs(uid("Action", group)?, [].into()));
    }
    Entities::from_entities(all, None).map_err(|e| e.to_string())
}
