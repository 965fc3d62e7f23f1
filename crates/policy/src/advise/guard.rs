//! What is never proposed: keys, metadata services, and the wall's own state.
//!
//! A policy may say anything about these places, and explanations tell what it says. But no advice
//! leads there: a text that an agent reads must not teach it to ask for a key, and a rule that a
//! person pastes must not open one.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Endpoint, ObjectKind, Resource, is_within};

use crate::{
    address::Addresses,
    glob::Glob,
    secret::{secret_globs, secret_socket_globs},
    vars::Variables,
};

/// Names under which cloud providers serve instance metadata and credentials.
const METADATA_NAMES: &[&str] = &[
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "metadata.azure.internal",
];

/// Knows what is never proposed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    secret: Arc<[Glob]>,
    sockets: Arc<[Glob]>,
    state: Arc<[PathBuf]>,
}

/// Why an object is never proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Never {
    /// One of the places of `label:secret`.
    Secret,
    /// A metadata service of a cloud provider.
    Metadata,
    /// The wall's own state or policies.
    State,
}

impl Never {
    /// A sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Never::Secret => {
                "keys and tokens (label:secret) are never proposed; the user does the step that needs one"
            }
            Never::Metadata => {
                "metadata services hand out credentials of the machine and are never proposed"
            }
            Never::State => "the wall's own state and policies are never proposed",
        }
    }
}

impl Guard {
    /// What is never proposed under these values; `own` are further folders of the wall.
    pub fn new(variables: &Variables, own: &[PathBuf]) -> Guard {
        let state = variables.state.iter().chain(own).cloned();
        Guard {
            secret: secret_globs(variables).into(),
            sockets: secret_socket_globs().into(),
            state: state.collect::<Vec<_>>().into(),
        }
    }

    /// Whether the object is one that is never proposed.
    pub fn never(&self, resource: &Resource) -> Option<Never> {
        match resource {
            Resource::Path(p) => self.path(&p.path, p.kind == ObjectKind::Directory, false),
            Resource::Unix(path) => self.path(path, false, true),
            Resource::Endpoint(e) => metadata(e).then_some(Never::Metadata),
            Resource::Host(name) => metadata_name(name).then_some(Never::Metadata),
            Resource::Named(_) => None,
        }
    }

    fn path(&self, path: &Path, directory: bool, socket: bool) -> Option<Never> {
        if self.state.iter().any(|own| is_within(path, own)) {
            return Some(Never::State);
        }
        let bytes = path.as_os_str().as_bytes();
        // A place of the list stands for itself, whatever it turns out to be.
        let secret = |g: &Glob| g.matches(bytes, directory) || g.matches(bytes, true);
        let found = self.secret.iter().any(secret) || (socket && self.sockets.iter().any(secret));
        found.then_some(Never::Secret)
    }
}

fn metadata(e: &Endpoint) -> bool {
    let service = Addresses::parse("metadata");
    let is_service = |ip| service.as_ref().is_ok_and(|set| set.contains(ip));
    e.ip.is_some_and(is_service)
        || e.host
            .as_deref()
            .is_some_and(|host| metadata_name(host) || host.parse().is_ok_and(is_service))
}

fn metadata_name(host: &str) -> bool {
    METADATA_NAMES.contains(&host)
}
