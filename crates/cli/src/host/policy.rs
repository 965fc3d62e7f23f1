//! From a policy file to a table for the kernel, and what the kernel makes of it.
//!
//! Beside the rules of the author there are the wall's own, one source in each layer that the policy has:
//! nobody who is governed reads or changes the wall's files, and everybody may ask why something was
//! refused. They are part of the policy and of its digest.
//!
//! The kernel decides alone: it makes no copies, waits for nobody and evaluates no conditions; host names it knows
//! where they were proved to lead to the daemon (`names`). Where that makes it stricter than the policy says, it is told ([`Lack`]); where something would
//! go through that the policy refuses, the policy is not taken, unless it accepts that itself
//! (`require: {enforcement: audit}`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Effect, Facts, Protocol, Subject, Verb};
use agentwall_bundle::Opened;
use agentwall_kernel::abi::TABLE_ROOM;
use agentwall_policy::{
    Compiled, CompiledTable, Enforcement, HostPattern, Layer, Policy, ResourcePattern, Rule,
    RuleEffect, Source, Variables, glob_escape,
};
use agentwall_wall::enforcement::{Fidelity, Landing, Mechanism};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    Places, canonical,
    config::{self, Config},
};
use crate::{
    policies::{self, Chosen},
    prepare,
    state::shown,
};

/// Before every other rule.
const FIRST: i64 = -1_000_000;
/// Why a rule about some actions does nothing here.
const NO_HOOK: &str = "no hook of the kernel asks about this action";
/// Services of the host that tell addresses of names past the resolver: systemd-resolved, nscd, Avahi. Where they
/// are refused, the C library asks a name server (nsswitch.conf(5)).
const NAME_SERVICES: [&str; 4] = [
    "/run/systemd/resolve/**",
    "/run/nscd/**",
    "/var/run/nscd/**",
    "/run/avahi-daemon/**",
];
/// How the ids of the wall's own rules begin.
const OWN: &str = "agentwall:own/";

/// The wall's own files: what no governed process may touch, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFiles {
    /// Files and folders with all that is in them.
    pub hidden: Vec<PathBuf>,
    /// This program.
    pub binary: PathBuf,
    /// The socket that tells why.
    pub why: PathBuf,
}

impl OwnFiles {
    /// Of a daemon with these places.
    pub fn of(places: &Places, binary: PathBuf) -> OwnFiles {
        let hidden = [
            &places.state,
            &places.run,
            &places.pins,
            &places.config,
            Path::new("/etc/agentwall"),
            Path::new(super::UNIT),
        ];
        let mut hidden: Vec<PathBuf> = hidden.into_iter().map(canonical).collect();
        hidden.sort();
        hidden.dedup();
        OwnFiles {
            hidden,
            binary,
            why: canonical(&places.why()),
        }
    }

    /// The wall's own rules for a layer, as text that is read like any other; `names`: names are decided, and so
    /// asked for at the session's door alone.
    pub fn source(&self, layer: Layer, names: bool) -> Source {
        let exact =
            |path: &Path| glob_escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
        let tree: Vec<String> = (self.hidden.iter())
            .map(|path| format!("{}/**", exact(path)))
            .chain(self.hidden.iter().map(|path| exact(path)))
            .collect();
        let sockets: Vec<String> = (self.hidden.iter())
            .map(|path| format!("unix:{}/**", exact(path)))
            .chain([format!("!unix:{}", exact(&self.why))])
            .collect();
        let binary = exact(&self.binary);
        let rule = |id: &str, action: &[&str], resource: &[String], effect: &str, reason: &str| {
            serde_json::json!({
                "id": format!("{OWN}{}/{id}", layer.as_str()),
                "priority": FIRST,
                "action": action,
                "resource": resource,
                "effect": effect,
                "reason": reason,
            })
        };
        let change = [
            "file.write",
            "file.create",
            "file.delete",
            "file.rename",
            "file.chmod",
        ];
        let theirs = "the wall's own files are out of reach";
        let mut rules = vec![
            rule("files", &["file.*", "process.exec"], &tree, "deny", theirs),
            rule("sockets", &["ipc.connect"], &sockets, "deny", theirs),
            rule(
                "program",
                &change,
                std::slice::from_ref(&binary),
                "deny",
                theirs,
            ),
            rule(
                "start",
                &["file.read", "file.exec", "process.exec"],
                std::slice::from_ref(&binary),
                "allow",
                "'agentwall why' tells why something was refused",
            ),
            rule(
                "why",
                &["ipc.connect"],
                &[format!("unix:{}", exact(&self.why))],
                "allow",
                "'agentwall why' tells why something was refused",
            ),
        ];
        if names {
            rules.push(rule(
                "names",
                &["ipc.connect"],
                &NAME_SERVICES.map(|path| format!("unix:{path}")),
                "deny",
                "a name is asked for at a name server: the wall answers",
            ));
        }
        let text = serde_json::json!({ "agentwall": 1, "rules": rules });
        Source::new(
            format!("(the wall's own, {})", layer.as_str()),
            text.to_string(),
            layer,
        )
    }
}

/// What the kernel does otherwise than a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The rule; empty for what is beside the rules.
    pub rule: String,
    /// What, and what comes of it.
    pub what: String,
    /// Something goes through that should not; else less goes through.
    pub open: bool,
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rule.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "rule {}: {}", self.rule, self.what),
        }
    }
}

/// A policy that can be put into the kernel.
#[derive(Debug, Clone)]
pub struct Ready {
    /// For whom.
    pub subject: Subject,
    /// The facts that hold for all its sessions.
    pub facts: Facts,
    /// What was compiled; it says which rule an event names.
    pub compiled: Arc<Compiled>,
    /// What it was loaded from, without the wall's own rules.
    pub sources: Vec<Source>,
    /// The bundles among it.
    pub bundles: Vec<Opened>,
    /// The values it was loaded with.
    pub variables: Variables,
    /// What the kernel does otherwise.
    pub lacks: Vec<Lack>,
    /// It speaks of host names, and they are decided.
    pub names: bool,
}

impl Ready {
    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        self.compiled.policy()
    }

    /// Its digest.
    pub fn digest(&self) -> &str {
        self.policy().digest()
    }

    /// The table.
    pub fn table(&self) -> CompiledTable {
        self.compiled.table()
    }

    /// What the kernel does otherwise, for a person.
    pub fn lacks(&self) -> Vec<String> {
        self.lacks.iter().map(Lack::to_string).collect()
    }
}

/// How a policy is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Nothing is to be refused.
    pub audit: bool,
    /// Host names were proved to lead to the daemon.
    pub names: bool,
}

impl Mode {
    /// Whether host names are decided. What is not refused is not led anywhere either.
    const fn decides_names(self) -> bool {
        self.names && !self.audit
    }
}

/// A policy, compiled for a subject, if the kernel can keep it.
pub fn ready(
    chosen: Chosen,
    name: &str,
    variables: &Variables,
    own: &OwnFiles,
    mode: Mode,
) -> Result<Ready> {
    let subject = Subject::agent(name);
    let names = mode.decides_names();
    let policy = completed(&chosen.sources, variables, own, &subject, names)?;
    let lacks = lacks(&policy, &subject, names);
    check(&policy, &lacks, mode.audit)?;
    let names = names && policy.speaks_of_names(&subject);
    let mut facts = Facts::default();
    name.clone_into(&mut facts.session.name);
    if let Some(workspace) = &variables.workspace {
        facts.session.workspace = workspace.to_string_lossy().into_owned();
    }
    let compiled = Compiled::new(Arc::new(policy), &subject, &facts);
    let words = compiled.table().words().len();
    if words > TABLE_ROOM {
        bail!(
            "the compiled policy has {words} words, and the kernel takes {TABLE_ROOM}: shorten the \
             policy, or split it by subject"
        );
    }
    Ok(Ready {
        subject,
        facts,
        compiled: Arc::new(compiled),
        sources: chosen.sources,
        bundles: chosen.bundles,
        variables: variables.clone(),
        lacks,
        names,
    })
}

/// A policy with the wall's own rules, as it holds on this host for a subject; `names`: names are decided.
pub fn completed(
    sources: &[Source],
    variables: &Variables,
    own: &OwnFiles,
    subject: &Subject,
    names: bool,
) -> Result<Policy> {
    let mut layers: Vec<Layer> = sources.iter().map(|s| s.layer).collect();
    layers.sort();
    layers.dedup();
    let with = |names| {
        let mut all = sources.to_vec();
        all.extend(layers.iter().map(|layer| own.source(*layer, names)));
        Ok(prepare::on_this_host(policies::load(&all, variables)?))
    };
    let policy = with(false)?;
    match names && policy.speaks_of_names(subject) {
        true => with(true),
        false => Ok(policy),
    }
}

/// Refuses a policy under which more would go through than it says.
pub fn check(policy: &Policy, lacks: &[Lack], audit: bool) -> Result<()> {
    if audit && policy.require() > Enforcement::Audit {
        bail!("the policy requires enforcement ('require'), and mode audit refuses nothing");
    }
    let open: Vec<String> = (lacks.iter().filter(|l| l.open))
        .map(Lack::to_string)
        .collect();
    if open.is_empty() || audit || policy.require() == Enforcement::Audit {
        return Ok(());
    }
    bail!(
        "the kernel wall cannot enforce all that the policy asks for: {}; change it, use 'agentwall run', \
         or accept that with 'require: {{ enforcement: audit }}'",
        open.join("; ")
    )
}

/// Whether a hook asks about the verb. A commit needs none: nothing is written to a copy.
const fn has_hook(verb: Verb) -> bool {
    !matches!(
        verb,
        Verb::DnsResolve
            | Verb::HttpRequest
            | Verb::ToolCall
            | Verb::ApiCall
            | Verb::AgentMessage
            | Verb::CredentialUse
    )
}

/// What the kernel does otherwise than the policy says; `names`: host names are decided.
pub fn lacks(policy: &Policy, subject: &Subject, names: bool) -> Vec<Lack> {
    let mut found: Vec<Lack> = prepare::without_effect(policy)
        .into_iter()
        .map(|what| Lack {
            rule: String::new(),
            what: format!("{what}: not counted by the kernel"),
            open: true,
        })
        .collect();
    let rules = policy.rules().filter(|r| r.matches_subject(subject));
    for rule in rules.filter(|r| !r.id.starts_with(OWN)) {
        let said = of_rule(rule, names).into_iter().map(|(what, open)| Lack {
            rule: rule.id.clone(),
            what: what.to_owned(),
            open,
        });
        found.extend(said);
    }
    found
}

/// Where the rules that speak to a subject about one of the verbs are enforced, and how well.
pub fn landings(policy: &Policy, subject: &Subject, verbs: &[Verb], names: bool) -> Vec<Landing> {
    let mut found = Vec::new();
    let rules = policy.rules().filter(|r| r.matches_subject(subject));
    for rule in rules.filter(|r| !r.id.starts_with(OWN)) {
        // A commit is none of the kernel's: nothing is written to a copy.
        let spoken = rule.verbs.iter().filter(|v| **v != Verb::FileCommit);
        for verb in spoken.filter(|v| verbs.contains(v)) {
            let landing = |by, fidelity, note| Landing {
                rule: rule.id.clone(),
                layer: rule.layer,
                verb: *verb,
                tree: None,
                by,
                fidelity,
                landlock: false,
                note,
            };
            if !is_seen(*verb, names) {
                let by = Mechanism::NotEnforceable;
                found.push(landing(by, Fidelity::Unenforced, Some(NO_HOOK)));
                continue;
            }
            let lacks = of_rule(rule, names);
            if lacks.is_empty() {
                found.push(landing(Mechanism::KernelHook, Fidelity::Exact, None));
            }
            found.extend(lacks.into_iter().map(|(what, open)| match open {
                true => landing(Mechanism::NotEnforceable, Fidelity::Unenforced, Some(what)),
                false => landing(Mechanism::KernelHook, Fidelity::Stricter, Some(what)),
            }));
        }
    }
    found
}

fn of_rule(rule: &Rule, names: bool) -> Vec<(&'static str, bool)> {
    let RuleEffect::Decide(effect) = rule.effect else {
        return Vec::new();
    };
    let allows = effect == Effect::Allow;
    let mut verbs = rule.verbs.iter().filter(|v| **v != Verb::FileCommit);
    let Some(first) = verbs.next() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if !is_seen(*first, names) && verbs.all(|v| !is_seen(*v, names)) {
        // An allow that nobody asks for changes nothing.
        if !allows {
            found.push((NO_HOOK, true));
        }
        return found;
    }
    let unknown = |patterns: &[ResourcePattern]| patterns.iter().any(|p| is_unknown(p, names));
    if unknown(&rule.resource.positive) {
        found.push(match allows {
            true => (
                "the kernel cannot tell this host or label: it does not allow by it",
                false,
            ),
            false => (
                "the kernel cannot tell this host or label: it does not refuse by it",
                true,
            ),
        });
    }
    if unknown(&rule.resource.negative) {
        found.push(match allows {
            true => (
                "the kernel cannot tell this host or label: what '!' excepts is allowed",
                true,
            ),
            false => (
                "the kernel cannot tell this host or label: what '!' excepts is refused",
                false,
            ),
        });
    }
    if names && allows && rule.resource.positive.iter().any(is_datagram_to_name) {
        found.push((
            "datagrams go to addresses alone: it does not allow them to names",
            false,
        ));
    }
    match effect {
        Effect::Isolate => found.push(("the kernel makes no copies: refused", false)),
        Effect::Ask if rule.verbs == [Verb::ProcessExec] => found.push((
            "waits for a person where its programs can be named beforehand, else refused until a person approves",
            false,
        )),
        Effect::Ask => found.push(("refused until a person approves, then granted", false)),
        Effect::RateLimit => found.push(("the kernel counts no rates: refused", false)),
        _ => {}
    }
    if rule.is_conditional() {
        found.push(match allows {
            true => (
                "conditions on more than the session are not evaluated: not allowed",
                false,
            ),
            false => (
                "conditions on more than the session are not evaluated: always applies",
                false,
            ),
        });
    }
    found
}

/// Whether something asks about the verb: a hook, or the daemon for a name.
const fn is_seen(verb: Verb, names: bool) -> bool {
    has_hook(verb) || (names && matches!(verb, Verb::DnsResolve))
}

/// A pattern that needs to know what nobody tells.
fn is_unknown(pattern: &ResourcePattern, names: bool) -> bool {
    match pattern {
        ResourcePattern::Endpoint(e) => !names && matches!(e.host, HostPattern::Name(_)),
        // The places of `secret` and `host-executed` are paths like any other.
        ResourcePattern::Label(label) => label.paths.is_empty(),
        _ => false,
    }
}

fn is_datagram_to_name(pattern: &ResourcePattern) -> bool {
    matches!(pattern, ResourcePattern::Endpoint(e)
        if e.protocol == Protocol::Udp && matches!(e.host, HostPattern::Name(_)))
}

/// The configuration in a file. None at all is an empty one: nothing is governed until asked.
pub fn configuration(path: &Path) -> Result<Config> {
    let text = match policies::read_file(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", shown(path))),
    };
    belongs_to_root(path)?;
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    config::read(&policies::name_of(path)?, text, &passwd)
}

/// Who can change what the daemon reads decides what is governed: only root may.
pub fn belongs_to_root(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    let real = path
        .canonicalize()
        .with_context(|| format!("cannot examine {}", shown(path)))?;
    for part in real.ancestors() {
        let meta =
            std::fs::metadata(part).with_context(|| format!("cannot examine {}", shown(part)))?;
        // In a folder such as /tmp nobody replaces what belongs to another.
        let sticky = meta.is_dir() && meta.mode() & 0o1000 != 0;
        let foreign = meta.uid() != 0 && meta.uid() != own;
        if foreign || (meta.mode() & 0o022 != 0 && !sticky) {
            return Err(anyhow!(
                "{} can be changed by others than root, since {} belongs to user {} with mode {:03o}; \
                 the daemon reads only what root alone can change: 'chown root' and 'chmod go-w' it, or \
                 put the file into /etc/agentwall",
                shown(path),
                shown(part),
                meta.uid(),
                meta.mode() & 0o7777
            ));
        }
    }
    Ok(())
}

/// The policy in a file or bundle that root alone can change.
pub fn choose(file: &Path) -> Result<Chosen> {
    belongs_to_root(file)?;
    if !file.is_absolute() {
        bail!("{} is not an absolute path", shown(file));
    }
    policies::choose(Some(file), &[], Path::new("/"))
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
