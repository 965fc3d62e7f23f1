//! Where each rule landed: by what it is enforced in a planned view, and whether exactly.
//!
//! The plan is the one that a session would start with; for each of its nodes the same placement
//! fields are read that the mounts and the broker read, and the policy is asked which rules may
//! decide there. So a report cannot promise what the wall does not do. Verbs that have no tree
//! (network, names, commits) are enforced at one point each.
//!
//! A rule that asks for less than the mechanism gives is *stricter*: nothing gets through that should
//! not. A *race* is a named way in which losing a race, or a change on the host, yields more than
//! the rule says; what bounds it then is in the note.

use std::path::{Path, PathBuf};

use agentwall_action::{Effect, Facts, Protocol, Resource, Subject, Verb, VerbFamily};
use agentwall_policy::{Enforcement, Layer, Policy, ResourcePattern, Rule, RuleEffect};

use crate::mounts::OWN_DEVICES;
use crate::plan::{FileView, Node, NodeKind, Placement, REPLACED, Writes, stat_canonical};

/// By what a rule is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mechanism {
    /// An empty file or folder in the object's place.
    Mask,
    /// The object is shown as it is.
    Shown,
    /// A read-only bind mount.
    ReadOnlyBind,
    /// A writable bind mount.
    WritableBind,
    /// An overlay: changes go to a copy.
    Overlay,
    /// Memory that ends with the session.
    Memory,
    /// A mount without execution.
    NoexecMount,
    /// A seccomp notification that the broker answers.
    SeccompBroker,
    /// The system-call filter alone.
    SeccompFilter,
    /// The proxy that all connections are redirected to.
    EgressProxy,
    /// The wall's resolver.
    DnsResolver,
    /// The session's own namespaces, with nothing else in them.
    Namespace,
    /// The session's own `/dev`.
    DeviceFolder,
    /// The check of every change when it is committed.
    CommitCheck,
    /// The programs at the hooks of the BPF LSM.
    KernelHook,
    /// Nothing asks for a decision.
    NotEnforceable,
}

impl Mechanism {
    /// The textual form, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mechanism::Mask => "mask",
            Mechanism::Shown => "shown",
            Mechanism::ReadOnlyBind => "read-only-bind",
            Mechanism::WritableBind => "writable-bind",
            Mechanism::Overlay => "overlay",
            Mechanism::Memory => "memory",
            Mechanism::NoexecMount => "noexec-mount",
            Mechanism::SeccompBroker => "seccomp-broker",
            Mechanism::SeccompFilter => "seccomp-filter",
            Mechanism::EgressProxy => "egress-proxy",
            Mechanism::DnsResolver => "dns-resolver",
            Mechanism::Namespace => "namespace",
            Mechanism::DeviceFolder => "device-folder",
            Mechanism::CommitCheck => "commit-check",
            Mechanism::KernelHook => "kernel-hook",
            Mechanism::NotEnforceable => "not-enforceable",
        }
    }
}

/// How well a mechanism does what a rule says, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fidelity {
    /// What the rule says.
    Exact,
    /// Less goes through than the rule says.
    Stricter,
    /// What the rule says, but for a named race.
    Race,
    /// The rule is without effect.
    Unenforced,
}

impl Fidelity {
    /// The textual form, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fidelity::Exact => "exact",
            Fidelity::Stricter => "stricter",
            Fidelity::Race => "race",
            Fidelity::Unenforced => "unenforced",
        }
    }

    /// The level of enforcement that this is.
    pub const fn level(self) -> Enforcement {
        match self {
            Fidelity::Exact | Fidelity::Stricter => Enforcement::Enforced,
            Fidelity::Race => Enforcement::Race,
            Fidelity::Unenforced => Enforcement::None,
        }
    }
}

/// One place where a rule is enforced, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    /// The rule.
    pub rule: String,
    /// Its layer.
    pub layer: Layer,
    /// For which action.
    pub verb: Verb,
    /// In which tree of the view; `None` for what has no tree.
    pub tree: Option<PathBuf>,
    /// By what.
    pub by: Mechanism,
    /// How well.
    pub fidelity: Fidelity,
    /// Whether Landlock repeats it, on a kernel that has it.
    pub landlock: bool,
    /// The race, or why it is stricter or without effect.
    pub note: Option<&'static str>,
}

/// What the report is about.
#[derive(Debug)]
pub struct Question<'a> {
    /// The policy, in the form the wall enforces.
    pub policy: &'a Policy,
    /// For whom.
    pub subject: &'a Subject,
    /// The session's facts.
    pub facts: &'a Facts,
    /// The planned view.
    pub view: &'a FileView,
    /// Tracing inside the session is refused by the filter.
    pub no_trace: bool,
    /// For which actions.
    pub verbs: &'a [Verb],
}

/// Whether some face of this version asks for a decision about the action.
pub const fn has_face(verb: Verb) -> bool {
    !matches!(
        verb,
        Verb::ToolCall
            | Verb::ApiCall
            | Verb::HttpRequest
            | Verb::AgentMessage
            | Verb::CredentialUse
    )
}

/// Every place where a rule about one of the verbs may decide or mark something. A rule that can
/// decide nothing on this host (another always decides first) has none.
pub fn landings(question: &Question<'_>) -> Vec<Landing> {
    let mut found = Vec::new();
    let absent = absent(question.policy);
    for verb in question.verbs {
        match Place::of(*verb) {
            Some(part) => by_tree(question, *verb, part, &absent, &mut found),
            None => {
                let about = |rule: &&Rule| {
                    rule.verbs.contains(verb) && rule.matches_subject(question.subject)
                };
                for rule in question.policy.rules().filter(about) {
                    let (by, fidelity, note) = elsewhere(*verb, rule);
                    found.push(landing(rule, *verb, None, (by, fidelity, note)));
                }
            }
        }
    }
    found
}

/// What a placement says about a verb that acts on trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Read,
    Change,
    Start,
    Map,
    Process,
}

impl Place {
    fn of(verb: Verb) -> Option<Place> {
        Some(match verb {
            Verb::FileRead => Place::Read,
            Verb::FileWrite
            | Verb::FileCreate
            | Verb::FileDelete
            | Verb::FileRename
            | Verb::FileChmod => Place::Change,
            Verb::ProcessExec => Place::Start,
            Verb::FileExec => Place::Map,
            Verb::ProcessSignal | Verb::ProcessTrace => Place::Process,
            _ => return None,
        })
    }
}

type Answer = (Mechanism, Fidelity, Option<&'static str>);

const EXACT: Fidelity = Fidelity::Exact;
const AROUND: &str = "hidden together with what is around it";
const NAMES: &str = "a name that appears on the host during the session is not masked";
const CONTINUES: &str = "decided by name, then the kernel continues: a racing thread may reach another object of the tree";
const COPY: &str = "decided by name, then the kernel continues: a racing thread may change another \
                    object of the copy; the commit decides again";
const MAPPED: &str = "mmap(2) is not trapped: code can be mapped from all of the tree";
const OWN_FILES: &str = "the session's own kernel files: opens for reading are decided there only if the plan traps reads";
const SURFACE: &str = "other mounts lie below: each folder has a copy layer of its own and keeps its name; \
                       files that cannot be copied into memory are read-only";
const ALL_ISOLATED: &str = "goes to the copy; a commit carries it over";
const TRACED: &str = "tracing is refused for the whole session or not at all: a rule that denies it for all \
                      of the session has to match /proc";
const SIGNALLED: &str =
    "signals are not decided: they reach the session's own processes, and no others";
const NO_FACE: &str = "no face of this version asks for it";

/// Places that the policy names where nothing is.
fn absent(policy: &Policy) -> Vec<PathBuf> {
    let mut anchors = policy.anchors();
    anchors.retain(|path| stat_canonical(path).is_err());
    anchors
}

fn landing(rule: &Rule, verb: Verb, tree: Option<&Path>, answer: Answer) -> Landing {
    let (by, fidelity, note) = answer;
    let landlock = matches!(
        by,
        Mechanism::Mask | Mechanism::ReadOnlyBind | Mechanism::NoexecMount
    ) && verb != Verb::FileRead;
    Landing {
        rule: rule.id.clone(),
        layer: rule.layer,
        verb,
        tree: tree.map(Path::to_owned),
        by,
        fidelity,
        landlock,
        note,
    }
}

fn by_tree(
    question: &Question<'_>,
    verb: Verb,
    part: Place,
    absent: &[PathBuf],
    found: &mut Vec<Landing>,
) {
    let Question {
        policy,
        subject,
        facts,
        view,
        ..
    } = question;
    for node in &view.nodes {
        let tree = node.path.as_path();
        if node.kind == NodeKind::File {
            for rule in on_file(question, verb, tree) {
                let answer = placed(question, verb, part, rule.effect, node);
                found.push(landing(rule, verb, Some(tree), answer));
            }
            continue;
        }
        let inside = |path: &&PathBuf| path.as_path() != tree && path.starts_with(tree);
        let nodes = view.nodes.iter().map(|n| &n.path);
        let mut except: Vec<PathBuf> = nodes.filter(inside).cloned().collect();
        if tree == Path::new("/") {
            except.extend(REPLACED.iter().map(PathBuf::from));
        }
        let deciders = policy.deciders(subject, verb, tree, &except, facts);
        except.extend(absent.iter().filter(inside).cloned());
        let now = policy.deciders(subject, verb, tree, &except, facts);
        for rule in deciders {
            let mut answer = placed(question, verb, part, rule.effect, node);
            let there = now.iter().any(|r| r.id == rule.id && r.layer == rule.layer);
            if !there && tree == Path::new("/") {
                // The root is made in memory: what the host does not have now is not there.
                continue;
            }
            if !there && answer.1 == Fidelity::Unenforced {
                answer = (Mechanism::Mask, Fidelity::Race, Some(NAMES));
            }
            found.push(landing(rule, verb, Some(tree), answer));
        }
    }
    for tree in REPLACED.iter().map(Path::new) {
        for rule in policy.deciders(subject, verb, tree, &[], facts) {
            let answer = in_wall_made(part, rule.effect, tree, view);
            found.push(landing(rule, verb, Some(tree), answer));
        }
    }
}

/// The rules that may decide or mark one file: conditional ones, and the first that has no condition.
fn on_file<'p>(question: &Question<'p>, verb: Verb, path: &Path) -> Vec<&'p Rule> {
    let resource = Resource::path(path);
    let mut found = Vec::new();
    let mut decided: Option<(Layer, i64)> = None;
    for rule in question.policy.rules() {
        if !rule.matches_subject(question.subject) || !rule.matches_object(verb, &resource) {
            continue;
        }
        let late = decided.is_some_and(|(layer, p)| layer == rule.layer && p < rule.priority);
        if rule.effect == RuleEffect::Monitor {
            found.push(rule);
        } else if !late {
            found.push(rule);
            if !rule.is_conditional() {
                decided = Some((rule.layer, rule.priority));
            }
        }
    }
    found
}

/// What a rule gets in a node.
fn placed(
    question: &Question<'_>,
    verb: Verb,
    part: Place,
    effect: RuleEffect,
    node: &Node,
) -> Answer {
    let (placement, view) = (&node.placement, question.view);
    let denies = effect == RuleEffect::Decide(Effect::Deny);
    let runs = !placement.hidden && !placement.noexec && placement.startable;
    if part == Place::Process {
        return process(question, verb, effect, runs);
    }
    if node.path == Path::new("/") && part == Place::Read && !denies {
        // The wall's own folder, with what is shown in it.
        return (Mechanism::Shown, EXACT, None);
    }
    if placement.hidden {
        return match denies {
            true => (Mechanism::Mask, EXACT, None),
            false => (Mechanism::Mask, Fidelity::Stricter, Some(AROUND)),
        };
    }
    match part {
        Place::Read => read(effect, view),
        Place::Change => change(effect, placement),
        Place::Start | Place::Map if !runs => match denies {
            true => (Mechanism::NoexecMount, EXACT, None),
            false => (
                Mechanism::NoexecMount,
                Fidelity::Stricter,
                Some("another rule keeps all of the tree from being run"),
            ),
        },
        Place::Start | Place::Process => (Mechanism::SeccompBroker, EXACT, None),
        Place::Map => match effect {
            RuleEffect::Decide(Effect::Allow) => (Mechanism::Shown, EXACT, None),
            _ => (
                Mechanism::NotEnforceable,
                Fidelity::Unenforced,
                Some(MAPPED),
            ),
        },
    }
}

/// What a rule about processes whose program lies in a tree gets.
fn process(question: &Question<'_>, verb: Verb, effect: RuleEffect, runs: bool) -> Answer {
    let not = |note| (Mechanism::NotEnforceable, Fidelity::Unenforced, Some(note));
    match effect {
        // There are only the session's own processes, and nothing of it runs from there.
        _ if !runs => (Mechanism::Namespace, EXACT, None),
        RuleEffect::Decide(Effect::Allow | Effect::Isolate) => (Mechanism::Namespace, EXACT, None),
        RuleEffect::Decide(Effect::Deny) if verb == Verb::ProcessTrace && question.no_trace => {
            (Mechanism::SeccompFilter, EXACT, None)
        }
        _ if verb == Verb::ProcessTrace => not(TRACED),
        _ => not(SIGNALLED),
    }
}

fn read(effect: RuleEffect, view: &FileView) -> Answer {
    match effect {
        _ if view.trap_reads => (Mechanism::SeccompBroker, EXACT, None),
        RuleEffect::Decide(Effect::Allow | Effect::Isolate) => (Mechanism::Shown, EXACT, None),
        // What matched when the session was planned has a node of its own.
        RuleEffect::Decide(Effect::Deny) => (Mechanism::Mask, Fidelity::Race, Some(NAMES)),
        _ => (
            Mechanism::NotEnforceable,
            Fidelity::Unenforced,
            Some("opens for reading are not trapped"),
        ),
    }
}

fn change(effect: RuleEffect, placement: &Placement) -> Answer {
    let allows = effect == RuleEffect::Decide(Effect::Allow);
    let isolates = effect == RuleEffect::Decide(Effect::Isolate);
    let denies = effect == RuleEffect::Decide(Effect::Deny);
    match placement.writes {
        Writes::None if denies => (Mechanism::ReadOnlyBind, EXACT, None),
        Writes::None => (
            Mechanism::ReadOnlyBind,
            Fidelity::Stricter,
            Some("nothing of the tree can be changed"),
        ),
        Writes::Isolated if allows => (Mechanism::Overlay, Fidelity::Stricter, Some(ALL_ISOLATED)),
        _ if placement.brokered && placement.surface && !denies => {
            (Mechanism::SeccompBroker, Fidelity::Stricter, Some(SURFACE))
        }
        _ if placement.brokered => (Mechanism::SeccompBroker, EXACT, None),
        Writes::Isolated if isolates && placement.surface => {
            (Mechanism::Overlay, Fidelity::Stricter, Some(SURFACE))
        }
        Writes::Isolated if isolates => (Mechanism::Overlay, EXACT, None),
        Writes::Isolated => (Mechanism::SeccompBroker, Fidelity::Race, Some(COPY)),
        Writes::Private if isolates || allows => (
            Mechanism::Memory,
            Fidelity::Stricter,
            Some("changes end with the session"),
        ),
        Writes::Private => (Mechanism::SeccompBroker, Fidelity::Race, Some(CONTINUES)),
        Writes::Direct if allows => (Mechanism::WritableBind, EXACT, None),
        Writes::Direct => (Mechanism::SeccompBroker, Fidelity::Race, Some(CONTINUES)),
    }
}

/// What a rule gets in `/proc` and `/dev`, which the wall makes itself.
fn in_wall_made(part: Place, effect: RuleEffect, tree: &Path, view: &FileView) -> Answer {
    let denies = effect == RuleEffect::Decide(Effect::Deny);
    match part {
        // Nothing runs from there.
        Place::Process => (Mechanism::Namespace, EXACT, None),
        Place::Start | Place::Map if denies => (Mechanism::NoexecMount, EXACT, None),
        Place::Start | Place::Map => (
            Mechanism::NoexecMount,
            Fidelity::Stricter,
            Some("nothing can be run from it"),
        ),
        Place::Change => match effect {
            RuleEffect::Decide(Effect::Allow) => (Mechanism::WritableBind, EXACT, None),
            _ => (Mechanism::SeccompBroker, Fidelity::Race, Some(CONTINUES)),
        },
        Place::Read => match effect {
            _ if view.trap_reads => (Mechanism::SeccompBroker, EXACT, None),
            RuleEffect::Decide(Effect::Allow | Effect::Isolate) => (Mechanism::Shown, EXACT, None),
            RuleEffect::Decide(Effect::Deny) if tree == Path::new("/dev") => (
                Mechanism::DeviceFolder,
                Fidelity::Race,
                Some(
                    "devices of the host are absent; the session's own (null, tty, …) stay readable",
                ),
            ),
            _ => (
                Mechanism::NotEnforceable,
                Fidelity::Unenforced,
                Some(OWN_FILES),
            ),
        },
    }
}

/// What a rule gets where there are no trees.
fn elsewhere(verb: Verb, rule: &Rule) -> Answer {
    let permits = matches!(
        rule.effect,
        RuleEffect::Decide(Effect::Allow | Effect::Isolate)
    );
    let denies = rule.effect == RuleEffect::Decide(Effect::Deny);
    let not = |note| (Mechanism::NotEnforceable, Fidelity::Unenforced, Some(note));
    match verb {
        verb if !has_face(verb) => not(NO_FACE),
        Verb::FileCommit => (Mechanism::CommitCheck, EXACT, None),
        Verb::NetConnect if only_datagrams(rule) => datagrams(denies),
        Verb::NetConnect => (Mechanism::EgressProxy, EXACT, None),
        Verb::NetSend => datagrams(denies),
        Verb::NetListen if permits => (Mechanism::Namespace, EXACT, None),
        Verb::NetListen => not(
            "listening is not decided: it happens in the session's own network, where nobody else is",
        ),
        Verb::DnsResolve if rule.effect == RuleEffect::Decide(Effect::Ask) => (
            Mechanism::DnsResolver,
            Fidelity::Race,
            Some("the name is resolved without a question; the connection is decided by itself"),
        ),
        Verb::DnsResolve => (Mechanism::DnsResolver, EXACT, None),
        Verb::IpcConnect => (Mechanism::SeccompBroker, EXACT, None),
        Verb::DeviceOpen if denies && means_own_device(rule) => (
            Mechanism::DeviceFolder,
            Fidelity::Race,
            Some(
                "devices of the host are absent; the session's own (null, tty, …) are there under any policy",
            ),
        ),
        Verb::DeviceOpen if denies => (Mechanism::DeviceFolder, EXACT, None),
        Verb::DeviceOpen if permits && names_one_place(rule) => {
            (Mechanism::DeviceFolder, EXACT, None)
        }
        Verb::DeviceOpen => (
            Mechanism::DeviceFolder,
            Fidelity::Stricter,
            Some("only a device that an allowing rule names literally is there"),
        ),
        _ => not(NO_FACE),
    }
}

fn datagrams(denies: bool) -> Answer {
    match denies {
        true => (Mechanism::Namespace, EXACT, None),
        false => (
            Mechanism::Namespace,
            Fidelity::Stricter,
            Some("no datagrams leave the session but questions to its resolver"),
        ),
    }
}

fn only_datagrams(rule: &Rule) -> bool {
    let udp = |p: &ResourcePattern| match p {
        ResourcePattern::Endpoint(e) => e.protocol == Protocol::Udp,
        _ => false,
    };
    let list = &rule.resource.positive;
    !list.is_empty() && list.iter().all(udp)
}

/// Whether a rule is also about the devices that every session has.
fn means_own_device(rule: &Rule) -> bool {
    let list = &rule.resource.positive;
    let means = |p: &ResourcePattern| match p {
        ResourcePattern::Path(glob) => OWN_DEVICES
            .iter()
            .any(|name| glob.matches(format!("/dev/{name}").as_bytes(), false)),
        ResourcePattern::Any => true,
        _ => false,
    };
    list.is_empty() || list.iter().any(means)
}

fn names_one_place(rule: &Rule) -> bool {
    let literal = |p: &ResourcePattern| matches!(p, ResourcePattern::Path(g) if !g.as_str().contains(['*', '?', '[', '{']));
    debug_assert!(rule.verbs.iter().any(|v| v.family() == VerbFamily::Device));
    let list = &rule.resource.positive;
    !list.is_empty() && list.iter().all(literal)
}
