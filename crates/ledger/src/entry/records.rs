//! The fields of each type of entry. The order of the fields is the order in the entry; adding a
//! field makes older readers see the entry as unknown, so a field that most entries have belongs
//! to a new `v`: see [`FormatOf`].
//!
//! Verbs and effects are text here, not the types of the vocabulary: an old reader must read the
//! log of a newer writer. Text that an agent chooses (paths, arguments, names) is stored as it is
//! escaped for a person, see [`agentwall_action::escape_bytes`].

use std::{collections::BTreeMap, os::unix::ffi::OsStrExt as _};

use agentwall_action::{Action, Decision, Resource, escape_bytes};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    clip::{self, Clip},
    commitment,
    facts::{FactsText, PolicyAnswer, PolicyBundle, PolicyVariables},
};
use crate::hash::sha256_hex;

/// A session began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionStart {
    /// The agent's name.
    pub name: String,
    /// The command, one item per argument, escaped.
    pub command: Vec<String>,
    /// How many arguments at the end of `command` are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub command_cut: u64,
    /// The workspace folder, escaped.
    pub workspace: String,
    /// SHA-256 of the effective policy, lower-case hex.
    pub policy: String,
    /// What enforces the policy here, for example `landlock` to `abi 7`.
    pub enforcement: BTreeMap<String, String>,
    /// Who started it.
    pub user: User,
    /// The values the policy was loaded with (format 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variables: Option<PolicyVariables>,
    /// The signed bundles the policy came in (format 2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<PolicyBundle>,
    /// How many bundles are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub bundles_cut: u64,
    /// It is the same session, which goes on in its layers (format 2, as are the next).
    #[serde(skip_serializing_if = "is_false")]
    pub resumes: bool,
    /// The session with a copy of whose layers it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it writes is dropped when it ends.
    #[serde(skip_serializing_if = "is_false")]
    pub ephemeral: bool,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Numeric id.
    pub uid: u32,
    /// Login name.
    pub name: String,
}

/// A session ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionEnd {
    /// The agent's exit status, if it ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Plain allows by verb; they have no entries of their own.
    pub allowed: BTreeMap<String, u64>,
    /// All decisions by effect.
    pub decisions: BTreeMap<String, u64>,
}

/// What was to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ActionText {
    /// For example `file.write`.
    pub verb: String,
    /// The canonical object, escaped.
    pub resource: String,
    /// The path's bytes in base64, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

impl ActionText {
    /// The text of an action.
    pub fn of(action: &Action) -> Self {
        let path = match &action.resource {
            Resource::Path(p) => Some(p.as_bytes()),
            Resource::Unix(p) => Some(p.as_os_str().as_bytes()),
            _ => None,
        };
        ActionText {
            verb: action.verb.as_str().to_owned(),
            resource: action.resource.to_string(),
            bytes: path
                .filter(|p| std::str::from_utf8(p).is_err())
                .map(|p| STANDARD.encode(p)),
        }
    }
}

/// A decision, and who carried it out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionRecord {
    /// What was to be done.
    pub action: ActionText,
    /// For example `deny`.
    pub effect: String,
    /// The rule that decided; absent when the default did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The rule's reason.
    pub reason: String,
    /// Rules that only watch and matched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<String>,
    /// Conditions that failed to evaluate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// SHA-256 of the effective policy, lower-case hex.
    pub policy: String,
    /// The enforcement point, for example `seccomp` or `egress`.
    pub enforced_by: String,
    /// The process that asked, on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its program, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The facts it was made on (format 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<FactsText>,
    /// What the policy itself answers, where `effect` and `rule` are not that (format 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<PolicyAnswer>,
    /// The action it belongs to, see [`Intent`](super::Intent) (format 2, as is the next).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<String>,
    /// By what it was found to belong there, the strongest first: `cgroup`, `lineage+argv`, `lineage`,
    /// `window`; `unattributed` when it belongs to no action of a session that tells its intents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<String>,
}

impl DecisionRecord {
    /// The record of a decision.
    pub fn new(action: &Action, decision: &Decision, enforced_by: &str) -> Self {
        DecisionRecord {
            action: ActionText::of(action),
            effect: decision.effect.as_str().to_owned(),
            rule: decision.rule.clone(),
            reason: decision.reason.clone(),
            monitors: decision.monitors.clone(),
            errors: decision.errors.clone(),
            policy: decision.policy.clone(),
            enforced_by: enforced_by.to_owned(),
            pid: None,
            exe: None,
            facts: Some(FactsText::of(action)),
            said: None,
            action_id: None,
            attribution: None,
        }
    }

    /// With what the policy itself answers, which need not be what is carried out.
    pub fn said_by_policy(mut self, answer: PolicyAnswer) -> Self {
        self.said = (answer != self.carried_out()).then_some(answer);
        self
    }

    /// What the policy itself answers.
    pub fn answer(&self) -> PolicyAnswer {
        self.said.clone().unwrap_or_else(|| self.carried_out())
    }

    fn carried_out(&self) -> PolicyAnswer {
        PolicyAnswer {
            effect: self.effect.clone(),
            rule: self.rule.clone(),
        }
    }

    /// With the process that asked and the path of its program.
    pub fn by_process(mut self, pid: u32, exe: Option<&[u8]>) -> Self {
        self.pid = Some(pid);
        self.exe = exe.map(escape_bytes);
        self
    }
}

/// A program was started, or refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The decision; its resource is the program's canonical path.
    #[serde(flatten)]
    pub decision: DecisionRecord,
    /// SHA-256 over all arguments, each followed by a zero byte, lower-case hex.
    pub argv_sha256: String,
    /// The arguments, escaped.
    pub argv: Vec<String>,
    /// How many arguments at the end of `argv` are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub argv_cut: u64,
    /// Device number of the program's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// Its inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// SHA-256 of its content, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Exec {
    /// The record of a program start with its arguments as bytes.
    pub fn new<A: AsRef<[u8]>>(decision: DecisionRecord, argv: &[A]) -> Self {
        Exec {
            decision,
            argv_sha256: argv_sha256(argv),
            argv: argv.iter().map(|a| escape_bytes(a.as_ref())).collect(),
            ..Exec::default()
        }
    }
}

/// SHA-256 over all arguments, each followed by a zero byte, lower-case hex.
pub fn argv_sha256<A: AsRef<[u8]>>(argv: &[A]) -> String {
    let mut all = Vec::new();
    for argument in argv {
        all.extend_from_slice(argument.as_ref());
        all.push(0);
    }
    sha256_hex(&all)
}

/// A connection was opened, or refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Connect {
    /// The decision.
    #[serde(flatten)]
    pub decision: DecisionRecord,
    /// The name under which the agent knows the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The port.
    pub port: u16,
}

impl Connect {
    /// The record of a connection; name, address and port come from the action.
    pub fn new(action: &Action, decision: &Decision, enforced_by: &str) -> Self {
        let mut connect = Connect {
            decision: DecisionRecord::new(action, decision, enforced_by),
            ..Connect::default()
        };
        if let Resource::Endpoint(e) = &action.resource {
            connect.host = e.host.clone();
            connect.ip = e.ip.map(|ip| ip.to_string());
            connect.port = e.port;
        }
        connect
    }
}

/// A person answered a question, or nobody did in time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Approval {
    /// The question's id.
    pub ask: String,
    /// `approve`, `reject` or `timeout`; `forget` of a tool's definition.
    pub verdict: String,
    /// `once`, `session` or `pattern`.
    pub scope: String,
    /// The pattern, for that scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Who answered.
    pub by: String,
    /// Digest of what exactly was approved, lower-case hex.
    pub binding: String,
}

/// A policy came into effect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyRecord {
    /// SHA-256 of the effective policy, lower-case hex.
    pub digest: String,
    /// The files it was made of, in order.
    pub sources: Vec<PolicySource>,
    /// How many sources are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub sources_cut: u64,
    /// The digest of the policy whose place it takes while the session runs (format 2, as are the
    /// next).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Who put it in that place, for example `uid:1000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The signed bundles it came in, if it took another's place; those of the first policy stand in
    /// the session's start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<PolicyBundle>,
}

/// One file of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicySource {
    /// Its name, escaped.
    pub name: String,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
}

/// Changes are about to be carried to the originals (`planned`), or were.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    /// The changes.
    #[serde(flatten)]
    pub changes: Changes,
    /// Number of files of the whole set by outcome, for example `committed`, `conflict`.
    pub outcome: BTreeMap<String, u64>,
    /// Digest of the change set as it was reviewed, lower-case hex: what `diff` showed and
    /// `commit --digest` asked for (format 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reviewed: Option<String>,
}

/// A commit is about to be undone (`planned`), or was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Undo {
    /// The changes of the commit. `change` is what the commit had done; the new content is what is
    /// there after the undo, the old one what the commit had left.
    #[serde(flatten)]
    pub changes: Changes,
    /// Number of files of the whole set by outcome, for example `undone`, `conflict`.
    pub outcome: BTreeMap<String, u64>,
}

/// Changes were thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Discard {
    /// The changes.
    #[serde(flatten)]
    pub changes: Changes,
}

/// A set of changed files, or one part of a set that is too long for one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    /// SHA-256 over the whole set, see [`Changes::in_parts`], lower-case hex.
    pub digest: String,
    /// Number of files of the whole set by kind of change, for example `add`, `modify`, `delete`.
    pub counts: BTreeMap<String, u64>,
    /// The files of this part, sorted by the bytes of their paths.
    pub files: Vec<ChangedFile>,
    /// How many files at the end of the list are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub files_cut: u64,
    /// Which part this is, from 1; absent when the set is in one entry.
    #[serde(skip_serializing_if = "is_zero")]
    pub part: u64,
    /// How many parts there are; absent when the set is in one entry.
    #[serde(skip_serializing_if = "is_zero")]
    pub parts: u64,
}

/// One changed file. "New" is what the change gives, "old" what was there before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangedFile {
    /// Its path, escaped.
    pub path: String,
    /// The kind of change.
    pub change: String,
    /// SHA-256 of the new content, lower-case hex: of what was written, so only in the record of
    /// what was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 of the content that was replaced or removed, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_sha256: Option<String>,
    /// The new content by its 64 KiB blocks that are not all zero: in place of `sha256` where nothing
    /// was written (yet), or where the file is mostly holes. SHA-256 over each such block after its
    /// index (u64 little-endian), and at last the size, lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks_sha256: Option<String>,
    /// The same in place of `old_sha256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_blocks_sha256: Option<String>,
    /// Type of the new object, of the old one for a deletion: `file`, `directory`, `symlink`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Its new permission bits, four octal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Target of a new symlink, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// SHA-256 over the new extended attributes (each name and value after its length as u64
    /// little-endian, sorted by name), lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xattrs_sha256: Option<String>,
}

/// Bytes of JSON, of files or of their leaf, and files per part: what an entry holds without anything cut from it.
const PART_BYTES: usize = 48_000;
const PART_FILES: usize = 400;

impl ChangedFile {
    /// How many bytes its leaf has more than itself.
    fn growth(&self) -> isize {
        let texts = [
            &self.sha256,
            &self.old_sha256,
            &self.blocks_sha256,
            &self.old_blocks_sha256,
            &self.target,
            &self.xattrs_sha256,
        ];
        let texts = texts.into_iter().flatten().chain([&self.path]);
        texts.map(|text| commitment::growth(text)).sum()
    }
}

impl Changes {
    /// A set of changes, each with the bytes of its path, as one or more parts that all carry the
    /// digest and the counts of the whole.
    ///
    /// The digest is over the JSON objects of all files as they stand in `files`, each followed by a
    /// newline, sorted by the bytes of their paths (files with one path keep their order). What is
    /// cut from an entry because it is too long is covered by it.
    pub fn in_parts(mut files: Vec<(Vec<u8>, ChangedFile)>) -> Vec<Self> {
        files.sort_by(|a, b| a.0.cmp(&b.0));
        let mut all = Vec::new();
        let mut counts = BTreeMap::new();
        let mut groups: Vec<Vec<ChangedFile>> = vec![Vec::new()];
        let mut used = 0;
        for (_, file) in files {
            let before = all.len();
            // Cannot fail: a struct of strings.
            all.extend(serde_json::to_vec(&file).unwrap_or_default());
            all.push(b'\n');
            let length = all.len() - before;
            let length = length.max(length.saturating_add_signed(file.growth()));
            used += length;
            *counts.entry(file.change.clone()).or_default() += 1;
            let full = |g: &Vec<_>| !g.is_empty() && (used > PART_BYTES || g.len() >= PART_FILES);
            match groups.last_mut() {
                Some(group) if !full(group) => group.push(file),
                _ => {
                    groups.push(vec![file]);
                    used = length;
                }
            }
        }
        let digest = sha256_hex(&all);
        let parts = if groups.len() > 1 {
            groups.len() as u64
        } else {
            0
        };
        (1..)
            .zip(groups)
            .map(|(part, files)| Changes {
                digest: digest.clone(),
                counts: counts.clone(),
                files,
                files_cut: 0,
                part: if parts > 0 { part } else { 0 },
                parts,
            })
            .collect()
    }
}

/// What a session's layers were at a moment was kept, or is not kept any longer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    /// Its name in the session.
    pub name: String,
    /// `made` or `removed`.
    pub outcome: String,
    /// The session ran, and was stopped for it.
    #[serde(skip_serializing_if = "is_false")]
    pub running: bool,
    /// How many objects the layers had.
    pub objects: u64,
    /// How many bytes they occupied.
    pub bytes: u64,
}

/// A session's layers are about to be put back to a checkpoint (`planned`), or were (`done`; `finished`
/// when it had been cut off).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollback {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// The checkpoint of what was there before.
    pub before: String,
    /// `planned`, `done` or `finished`.
    pub outcome: String,
}

/// A path was hidden from the session when it started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mask {
    /// The path, escaped.
    pub path: String,
    /// The rule that hides it; absent for the wall's own protection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// The wall tried itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selftest {
    /// Whether all canaries were stopped.
    pub ok: bool,
    /// What was tried.
    pub canaries: Vec<Canary>,
    /// How many canaries are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub canaries_cut: u64,
}

/// One thing that must fail inside the wall.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Canary {
    /// For example `masked read`.
    pub name: String,
    /// What happened.
    pub result: String,
    /// Whether it was stopped.
    pub ok: bool,
}

/// Records were lost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// How many.
    pub lost: u64,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Not before this moment, RFC 3339 (format 2, as is the next).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Not after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What went through under a policy without an entry of its own, counted by verb since the last such entry
/// of the session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The subject that it was permitted to, for example `agent:builder`.
    pub subject: String,
    /// SHA-256 of the effective policy, lower-case hex.
    pub policy: String,
    /// Plain allows by verb.
    pub allowed: BTreeMap<String, u64>,
}

/// What became of the wall in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelWall {
    /// `loaded`, `opened` (it stood already), `replaced` (by other programs), `left` (the daemon ends, the
    /// wall stands) or `removed`.
    pub outcome: String,
    /// SHA-256 of the programs, lower-case hex.
    pub programs: String,
    /// How many hooks they are attached to.
    pub hooks: u64,
    /// Whether nothing is refused, only recorded.
    #[serde(skip_serializing_if = "is_false")]
    pub audit: bool,
    /// Why it is only the monitor, which refuses nothing; absent: it is a wall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<String>,
    /// Who did it, for example `uid:0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature that serde asks for.
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature that serde asks for.
fn is_false(is: &bool) -> bool {
    !*is
}

/// The format that a record needs: the lowest one that has all fields it makes use of. So what an
/// older reader can understand it does understand.
pub(super) trait FormatOf {
    /// 1 or 2.
    fn format(&self) -> u64 {
        1
    }
}

impl FormatOf for SessionStart {
    fn format(&self) -> u64 {
        let older = self.variables.is_none() && self.bundles.is_empty() && self.bundles_cut == 0;
        let anew = !self.resumes && self.from.is_none() && !self.ephemeral;
        if older && anew { 1 } else { 2 }
    }
}

impl FormatOf for PolicyRecord {
    fn format(&self) -> u64 {
        let older = self.replaces.is_none() && self.by.is_none() && self.bundles.is_empty();
        if older { 1 } else { 2 }
    }
}

impl FormatOf for DecisionRecord {
    fn format(&self) -> u64 {
        let older = self.facts.is_none() && self.said.is_none();
        let linked = self.action_id.is_some() || self.attribution.is_some();
        if older && !linked { 1 } else { 2 }
    }
}

impl FormatOf for Exec {
    fn format(&self) -> u64 {
        self.decision.format()
    }
}

impl FormatOf for Connect {
    fn format(&self) -> u64 {
        self.decision.format()
    }
}

impl FormatOf for SessionEnd {}
impl FormatOf for Approval {}
impl FormatOf for Commit {
    fn format(&self) -> u64 {
        if self.reviewed.is_none() { 1 } else { 2 }
    }
}

impl FormatOf for Discard {}
impl FormatOf for Undo {}
impl FormatOf for Checkpoint {}
impl FormatOf for Rollback {}
impl FormatOf for Mask {}
impl FormatOf for Selftest {}
impl FormatOf for Tally {}
impl FormatOf for KernelWall {}
impl FormatOf for Gap {
    fn format(&self) -> u64 {
        let older = self.from.is_none() && self.to.is_none();
        if older { 1 } else { 2 }
    }
}

impl Clip for SessionStart {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.name, limit);
        self.command_cut = self
            .command_cut
            .saturating_add(clip_arguments(&mut self.command, limit));
        clip::text(&mut self.workspace, limit);
        clip::text(&mut self.policy, limit);
        clip::texts(&mut self.enforcement, limit);
        clip::text(&mut self.user.name, limit);
        if let Some(variables) = &mut self.variables {
            variables.clip(limit);
        }
        self.bundles_cut = self
            .bundles_cut
            .saturating_add(clip::items_only(&mut self.bundles, limit));
        self.bundles.iter_mut().for_each(|b| b.clip(limit));
        clip::option(&mut self.from, limit);
    }
}

impl Clip for SessionEnd {
    fn clip(&mut self, limit: usize) {
        clip::counts(&mut self.allowed, limit);
        clip::counts(&mut self.decisions, limit);
    }
}

impl Clip for DecisionRecord {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.action.verb, limit);
        clip::text(&mut self.action.resource, limit);
        clip::option(&mut self.action.bytes, limit);
        clip::text(&mut self.effect, limit);
        clip::option(&mut self.rule, limit);
        clip::text(&mut self.reason, limit);
        clip::marked_list(&mut self.monitors, limit);
        clip::marked_list(&mut self.errors, limit);
        clip::text(&mut self.policy, limit);
        clip::text(&mut self.enforced_by, limit);
        clip::option(&mut self.exe, limit);
        if let Some(facts) = &mut self.facts {
            facts.clip(limit);
        }
        if let Some(said) = &mut self.said {
            said.clip(limit);
        }
        clip::option(&mut self.action_id, limit);
        clip::option(&mut self.attribution, limit);
    }
}

impl Clip for Exec {
    fn clip(&mut self, limit: usize) {
        self.decision.clip(limit);
        clip::text(&mut self.argv_sha256, limit);
        self.argv_cut = self
            .argv_cut
            .saturating_add(clip_arguments(&mut self.argv, limit));
        clip::option(&mut self.sha256, limit);
    }
}

impl Clip for Connect {
    fn clip(&mut self, limit: usize) {
        self.decision.clip(limit);
        clip::option(&mut self.host, limit);
        clip::option(&mut self.ip, limit);
    }
}

impl Clip for Approval {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.ask, limit);
        clip::text(&mut self.verdict, limit);
        clip::text(&mut self.scope, limit);
        clip::option(&mut self.pattern, limit);
        clip::text(&mut self.by, limit);
        clip::text(&mut self.binding, limit);
    }
}

impl Clip for PolicyRecord {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.digest, limit);
        self.sources_cut = self
            .sources_cut
            .saturating_add(clip::items_only(&mut self.sources, limit));
        for source in &mut self.sources {
            clip::text(&mut source.name, limit);
            clip::text(&mut source.sha256, limit);
        }
        clip::option(&mut self.replaces, limit);
        clip::option(&mut self.by, limit);
        self.bundles.iter_mut().for_each(|b| b.clip(limit));
    }
}

impl Clip for Changes {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.digest, limit);
        clip::counts(&mut self.counts, limit);
        self.files_cut = self
            .files_cut
            .saturating_add(clip::items_only(&mut self.files, limit));
        for file in &mut self.files {
            clip::text(&mut file.path, limit);
            clip::text(&mut file.change, limit);
            for text in [
                &mut file.sha256,
                &mut file.old_sha256,
                &mut file.blocks_sha256,
                &mut file.old_blocks_sha256,
                &mut file.entry,
                &mut file.mode,
                &mut file.target,
                &mut file.xattrs_sha256,
            ] {
                clip::option(text, limit);
            }
        }
    }
}

impl Clip for Commit {
    fn clip(&mut self, limit: usize) {
        self.changes.clip(limit);
        clip::counts(&mut self.outcome, limit);
        clip::option(&mut self.reviewed, limit);
    }
}

impl Clip for Undo {
    fn clip(&mut self, limit: usize) {
        self.changes.clip(limit);
        clip::counts(&mut self.outcome, limit);
    }
}

impl Clip for Discard {
    fn clip(&mut self, limit: usize) {
        self.changes.clip(limit);
    }
}

impl Clip for Checkpoint {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.name, limit);
        clip::text(&mut self.outcome, limit);
    }
}

impl Clip for Rollback {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.checkpoint, limit);
        clip::text(&mut self.before, limit);
        clip::text(&mut self.outcome, limit);
    }
}

impl Clip for Mask {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.path, limit);
        clip::option(&mut self.rule, limit);
    }
}

impl Clip for Selftest {
    fn clip(&mut self, limit: usize) {
        self.canaries_cut = self
            .canaries_cut
            .saturating_add(clip::items_only(&mut self.canaries, limit));
        for canary in &mut self.canaries {
            clip::text(&mut canary.name, limit);
            clip::text(&mut canary.result, limit);
        }
    }
}

impl Clip for Tally {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.subject, limit);
        clip::text(&mut self.policy, limit);
        clip::counts(&mut self.allowed, limit);
    }
}

impl Clip for KernelWall {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.outcome, limit);
        clip::text(&mut self.programs, limit);
        clip::option(&mut self.by, limit);
    }
}

impl Clip for Gap {
    fn clip(&mut self, limit: usize) {
        clip::text(&mut self.reason, limit);
        clip::option(&mut self.from, limit);
        clip::option(&mut self.to, limit);
    }
}

/// Arguments have a budget of twice the limit together, so that a command line of a megabyte does
/// not fill the log; returns how many arguments are gone.
fn clip_arguments(arguments: &mut Vec<String>, limit: usize) -> u64 {
    let mut gone = clip::list(arguments, limit);
    let mut used = 0;
    let fits = arguments
        .iter()
        .take_while(|a| {
            used += a.len();
            used <= 2 * limit + 64
        })
        .count();
    gone += (arguments.len() - fits) as u64;
    arguments.truncate(fits);
    gone
}
