//! From what the programs tell to the words that every wall has: an action, a decision, who did it.
//!
//! The programs name a rule by layer and rank in the table of a generation. The words are those of the policy
//! where it decides the same; where the kernel was stricter (a condition it cannot evaluate, a copy it
//! cannot make), or decided without a policy, the reason says so.

use std::{
    ffi::OsStr,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

use agentwall_action::{
    Action, Decision, Effect, Endpoint, Facts, Hint, ObjectKind, PathResource, Protocol, Resource,
    Subject, Verb,
};
use agentwall_kernel::{
    Programs,
    wire::{Event, Kind, Unseen, Why},
};
use agentwall_policy::Rule;
use agentwall_wall::wire::{Actor, Binding, Event as Told};

use super::{policy::Ready, proc};

/// The enforcement point, as ledger entries name it.
pub const KERNEL: &str = "kernel";
/// The same where nothing was refused.
pub const KERNEL_AUDIT: &str = "kernel-audit";
/// The same for what was decided by a host name, as in every wall.
pub const EGRESS: &str = "egress";
/// What only looks on: nothing can be refused.
pub const MONITOR: &str = "monitor";

/// Whether what enforces it refuses nothing and only tells.
pub fn is_only_told(enforced_by: &str) -> bool {
    matches!(enforced_by, KERNEL_AUDIT | MONITOR)
}

/// What an event of these programs says, under the policy whose table answered; `None`: it is not known any more.
pub fn told(event: &Event, policy: Option<&Ready>, programs: Programs) -> Told {
    let action = action(event, policy);
    Told {
        decision: decision(event, policy, &action),
        action,
        actor: Actor {
            pid: event.pid,
            exe: proc::program(event.pid, &event.comm),
            ..Actor::default()
        },
        binding: Binding {
            device: u64::from(event.identity.device),
            inode: event.identity.inode,
        },
        enforced_by: match (programs, event.audit) {
            (Programs::Monitor, _) => MONITOR.to_owned(),
            (Programs::Wall, true) => KERNEL_AUDIT.to_owned(),
            (Programs::Wall, false) => KERNEL.to_owned(),
        },
    }
}

fn action(event: &Event, policy: Option<&Ready>) -> Action {
    let (verb, resource) = match (event.verb, event.why) {
        (Some(verb), _) => (verb, resource(event)),
        // No verb of the vocabulary: the kernel's own operations by name.
        (None, Why::Never(never)) => {
            let name = format!("kernel:{never:?}").to_ascii_lowercase();
            (Verb::ApiCall, Resource::Named(name))
        }
        (None, _) => (Verb::ApiCall, Resource::Named("kernel:other".to_owned())),
    };
    Action {
        subject: policy.map_or_else(|| Subject::agent("unknown"), |p| p.subject.clone()),
        verb,
        resource,
        facts: policy.map_or_else(Facts::default, |p| p.facts.clone()),
    }
}

fn resource(event: &Event) -> Resource {
    let text = event.text.as_deref();
    match event.kind {
        Kind::Path => Resource::Path(PathResource {
            path: match (text, event.verb) {
                (Some(text), _) => PathBuf::from(OsStr::from_bytes(text)),
                // A process that is no object of the session: the folder of all of them.
                (None, Some(Verb::ProcessSignal | Verb::ProcessTrace)) => "/proc".into(),
                (None, _) => "/(without a name)".into(),
            },
            kind: match event.directory {
                true => ObjectKind::Directory,
                false => ObjectKind::Unknown,
            },
        }),
        Kind::Endpoint => {
            let protocol = match event.identity.protocol {
                17 => Protocol::Udp,
                _ => Protocol::Tcp,
            };
            let port = u16::try_from(event.identity.port).unwrap_or(0);
            match event.address {
                Some(ip) => Resource::address(protocol, ip, port),
                None => Resource::Endpoint(Endpoint {
                    protocol,
                    host: None,
                    ip: None,
                    port,
                }),
            }
        }
        Kind::Socket | Kind::Abstract => {
            Resource::Unix(std::ffi::OsString::from_vec(text.unwrap_or_default().to_vec()).into())
        }
    }
}

fn decision(event: &Event, policy: Option<&Ready>, action: &Action) -> Decision {
    let Some(policy) = policy else {
        return Decision {
            effect: refused(event.effect.unwrap_or(Effect::Deny)),
            rule: None,
            reason: match event.why {
                Why::Rule => "decided by a policy that this daemon does not know".to_owned(),
                why => sentence(why),
            },
            hint: Hint::default(),
            monitors: Vec::new(),
            errors: Vec::new(),
            policy: String::new(),
        };
    };
    let said = policy.compiled.decide(action);
    // Of what a call named the kernel knows no more than we do: the policy's own answer is the only one.
    let Some(effect) = event.effect else {
        return said;
    };
    let rule = event
        .rule
        .and_then(|(layer, rank)| policy.compiled.ranked(layer as usize, rank));
    match event.why {
        Why::Rule => {}
        Why::Grant => {
            // The programs tell the name that they saw last, which need not be the one that was asked about.
            let asked = said.effect == Effect::Ask;
            return Decision {
                effect: Effect::Allow,
                rule: said.rule.filter(|_| asked),
                reason: match asked {
                    true => format!("approved: {}", said.reason),
                    false => "a person approved it".to_owned(),
                },
                hint: Hint::default(),
                ..said
            };
        }
        why => {
            return Decision {
                effect,
                rule: None,
                reason: sentence(why),
                hint: Hint::default(),
                ..said
            };
        }
    }
    let same = said.effect == effect && said.rule.as_deref() == rule.map(|r| r.id.as_str());
    let reason = match (effect, same) {
        (Effect::Isolate, _) => {
            "the policy isolates it, and the kernel wall makes no copy: refused; 'agentwall run' makes one"
                .to_owned()
        }
        (Effect::RateLimit, _) => "its rate is limited, and the kernel counts none: refused".to_owned(),
        (_, true) => said.reason.clone(),
        (_, false) => reason_of(rule, effect),
    };
    Decision {
        effect: refused(effect),
        rule: rule.map(|r| r.id.clone()),
        reason,
        hint: rule.map(|r| r.hint.clone()).unwrap_or_default(),
        ..said
    }
}

/// What the kernel carries out: it makes no copies and counts no rates.
fn refused(effect: Effect) -> Effect {
    match effect {
        Effect::Isolate | Effect::RateLimit => Effect::Deny,
        other => other,
    }
}

/// The words where the policy itself, with all facts, says something else.
fn reason_of(rule: Option<&Rule>, effect: Effect) -> String {
    let own = rule.and_then(|r| r.reason.clone());
    match (own, rule) {
        (Some(own), _) => own,
        (None, Some(rule)) => format!(
            "rule {} may apply: the kernel evaluates no conditions on more than the session",
            rule.id
        ),
        (None, None) => format!("no rule that the kernel can evaluate allows it: {effect}"),
    }
}

/// What the monitor does not see of a session from some moment on.
pub fn unseen(unseen: Unseen) -> &'static str {
    match unseen {
        Unseen::Uring => "what is done by io_uring, but for TCP, is not seen",
        Unseen::Calls => "system calls of 32-bit programs are not seen",
        Unseen::Many => "of a call with many messages or descriptors only the first are seen",
        _ => "something is not seen that has no name here",
    }
}

/// Why the kernel answered, where no rule did.
fn sentence(why: Why) -> String {
    match why {
        Why::TooLong => "its name is longer than the kernel wall decides on".to_owned(),
        Why::TooDeep => "its name has more parts than the kernel wall follows".to_owned(),
        Why::Full => "the policy's answer does not fit: it cannot be decided".to_owned(),
        Why::NoTable => "there is no policy for this process: nothing is allowed".to_owned(),
        Why::Race => "its name changed all the time while it was read".to_owned(),
        Why::Nameless => "code or processes without a name are not allowed".to_owned(),
        Why::Never(never) => format!("under no policy: {}", never.sentence()),
        Why::Wall => "it belongs to the wall".to_owned(),
        Why::Grant => "approved".to_owned(),
        Why::Own => "it is the session's own".to_owned(),
        Why::Pinned => "something below it is refused: it stays where it is".to_owned(),
        Why::Foreign => "it is not of this session".to_owned(),
        Why::Names => {
            "it is asked for by name, and names are decided for TCP in the host's own network alone"
                .to_owned()
        }
        Why::Unread => "what it named could not be read: nothing is known of it".to_owned(),
        other => format!("the kernel wall refused it: {other:?}"),
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
pub(crate) mod tests;
