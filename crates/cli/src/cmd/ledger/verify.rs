//! `agentwall ledger verify`: a log in a folder or on a server, an export of one, or the proof of one entry.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use agentwall_ledger::{
    Checkpoint, Entry, KeyHistory, Report, TlogProof, TrustPolicy, Verifier, VerifyOptions,
    entry::Opening, verify,
};
use agentwall_witness::fetch;
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{
    audit, has_log, line, settle,
    timestamp::{self, Stamped},
};
use crate::{
    args::LedgerVerifyArgs,
    output::{self, Style, UsageError, paint, tame},
    state::{State, shown},
    witnesses::{self, Standing},
};

/// How long a log may take to come from a server.
const FETCHING: Duration = Duration::from_secs(3600);
/// The longest proof, in bytes: an entry, 64 hashes and a hundred signatures fit several times.
const MAX_PROOF: u64 = 4 * 1024 * 1024;

pub fn main(args: &LedgerVerifyArgs) -> Result<ExitCode> {
    let target = Target::of(args.what.as_deref());
    if args.entry.is_some() && !matches!(target, Target::Proof(_)) {
        return Err(UsageError("--entry belongs to the proof of an entry".to_owned()).into());
    }
    let name = target.shown();
    let trust = args
        .policy
        .as_deref()
        .map(witnesses::read_policy)
        .transpose()?;
    match target.verify(args, trust) {
        Ok(Verified { text, mut json }) => {
            if args.json {
                json["ok"] = true.into();
                output::print_json(&json)?;
            } else {
                output::print(&text)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is::<UsageError>() || error.is::<NothingThere>() => Err(error),
        Err(error) => {
            let text = format!("{error:#}");
            if args.json {
                output::print_json(&json!({ "ok": false, "dir": name, "error": text }))?;
            }
            output::note(&format!(
                "{} {name} does not verify: {}",
                target.kind(),
                tame(&text)
            ));
            Ok(ExitCode::from(output::FAILED))
        }
    }
}

/// No log and none was named: nothing to verify, and nothing wrong.
#[derive(Debug, Clone, Copy)]
struct NothingThere;

impl std::fmt::Display for NothingThere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "there is no ledger yet; 'agentwall run -- CMD' begins one ('run --learn' also for 'policy \
             recommend')",
        )
    }
}

impl std::error::Error for NothingThere {}

/// What is to be verified.
enum Target {
    Folder(Option<PathBuf>),
    Proof(PathBuf),
    Export(PathBuf),
    Server(String),
}

struct Verified {
    text: String,
    json: Value,
}

impl Target {
    fn of(what: Option<&OsStr>) -> Target {
        let url = |w: &&str| w.starts_with("http://") || w.starts_with("https://");
        match what {
            None => Target::Folder(None),
            Some(what) => match what.to_str().filter(url) {
                Some(url) => Target::Server(url.to_owned()),
                None if audit::is_one(Path::new(what)) => Target::Export(what.into()),
                None if Path::new(what).is_file() => Target::Proof(what.into()),
                None => Target::Folder(Some(what.into())),
            },
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Target::Proof(_) => "the proof",
            Target::Export(_) => "the export",
            _ => "the ledger",
        }
    }

    fn shown(&self) -> String {
        match self {
            Target::Folder(Some(path)) | Target::Proof(path) | Target::Export(path) => shown(path),
            Target::Server(url) => tame(url),
            Target::Folder(None) => match State::for_reading() {
                Ok(state) => shown(&state.ledger_dir()),
                Err(_) => String::new(),
            },
        }
    }

    fn verify(&self, args: &LedgerVerifyArgs, trust: Option<TrustPolicy>) -> Result<Verified> {
        let key = args.key.as_deref();
        match self {
            Target::Proof(path) => proof(path, args, trust),
            Target::Export(path) => {
                let key = the_key(key, trust.as_ref(), None)?;
                let unpacked = audit::Unpacked::new(path, &key)?;
                let options = VerifyOptions::new(key);
                let mut verified = log(&unpacked.ledger(), self.shown(), options, trust)?;
                unpacked.texts()?;
                verified.text.push_str(&unpacked.told());
                verified.json["export"] = unpacked.json();
                Ok(verified)
            }
            Target::Server(url) => {
                let key = the_key(key, trust.as_ref(), None)?;
                let copy = tempfile::tempdir().context("cannot make a folder for the log")?;
                fetch(url, &key, copy.path(), FETCHING)?;
                let options = VerifyOptions::new(key);
                log(copy.path(), self.shown(), options, trust)
            }
            Target::Folder(dir) => {
                let key = match (key, &trust) {
                    (None, Some(trust)) if dir.is_some() => Some(OsString::from(
                        the_key(None, Some(trust), None)?.to_string(),
                    )),
                    (key, _) => key.map(OsStr::to_owned),
                };
                let (dir, options) = what(dir.as_deref(), key.as_deref())?;
                if !has_log(&dir) {
                    bail!(
                        "{} has no file 'checkpoint': it is not a log, or the checkpoint was removed",
                        shown(&dir)
                    );
                }
                log(&dir, shown(&dir), options, trust)
            }
        }
    }
}

/// A whole log. What `demanded` wants must be; without it, the log's own policy is only told about.
fn log(
    dir: &Path,
    name: String,
    mut options: VerifyOptions,
    demanded: Option<TrustPolicy>,
) -> Result<Verified> {
    let strict = demanded.is_some();
    // The head file is this host's memory: so is the policy beside it.
    options.trust = match (demanded, options.head.is_some()) {
        (Some(demanded), _) => Some(demanded),
        (None, true) => witnesses::configured(&State::for_reading()?)?,
        (None, false) => None,
    };
    let report = verify(dir, &options).map_err(|e| anyhow!("{e}"))?;
    let trust = options.trust.as_ref();
    let standing = trust.map(|trust| Standing::of(report.size, trust, report.cosigned.as_ref()));
    if let (true, Some(trust), Some(standing)) = (strict, trust, &standing)
        && trust.needs_witnesses()
        && standing.witnessed == 0
    {
        bail!(
            "it is what was signed, but not witnessed as the policy wants; {}",
            standing.sentence()
        );
    }
    let (stamped, doubted) = match options.head.is_some() {
        true => timestamp::kept(&State::for_reading()?, &options.key)?,
        false => (Vec::new(), Vec::new()),
    };
    let mut text = verified(&name, &report, standing.as_ref());
    text.push_str(&Stamped::told(&stamped, report.size));
    for why in &doubted {
        text.push_str(&format!(
            "  note    a timestamp that is not believed: {why}\n"
        ));
    }
    Ok(Verified {
        json: json!({
            "dir": name,
            "origin": report.origin,
            "size": report.size,
            "root": report.root.to_string(),
            "key": report.key,
            "rotations": report.rotations,
            "pruned": report.pruned,
            "types": report.types,
            "head": report.head,
            "unfinished": report.unfinished,
            "witnessed": standing.as_ref().map(Standing::json),
            "timestamps": stamped.iter().map(Stamped::json).collect::<Vec<_>>(),
        }),
        text,
    })
}

fn verified(name: &str, report: &Report, standing: Option<&Standing>) -> String {
    let types: Vec<String> = report
        .types
        .iter()
        .map(|(k, n)| format!("{n} {k}"))
        .collect();
    let mut text = format!(
        "{} {name}\n  {} entries: {}\n  root    {}\n  signed  {}\n",
        paint(Style::Green, "verified"),
        report.size,
        tame(&types.join(", ")),
        report.root,
        tame(&report.key)
    );
    if let Some(last) = report.rotations.last() {
        text.push_str(&format!(
            "  keys    {}, the newest since entry {last}: each is named under the signature of the one before it\n",
            report.rotations.len() + 1
        ));
    }
    if report.pruned > 0 {
        text.push_str(&format!(
            "  pruned  entries below {}: removed as a record in the log says; their hashes are covered\n",
            report.pruned
        ));
    }
    text.push_str(match report.head {
        true => "  newest  as this host remembers it: nothing was cut off or put back\n",
        false => {
            "  note    without this host's memory (the head file) an older genuine state cannot be \
             told from the newest\n"
        }
    });
    text.push_str(&match (standing, &report.cosigned) {
        (Some(standing), _) => {
            format!("  seen    {}\n{}", standing.sentence(), tail(standing))
        }
        (None, Some(cosigned)) => format!(
            "  note    the first {} of {} entries carry cosignatures; --policy says whose count\n",
            cosigned.checkpoint.size, report.size
        ),
        (None, None) => {
            "  note    not witnessed: whoever holds the key can write another history; \
             'agentwall ledger witness --help'\n"
                .to_owned()
        }
    });
    if !report.unfinished.is_empty() {
        text.push_str(&format!(
            "  note    {} left by a write that was cut off; the next one removes them\n",
            output::count(report.unfinished.len(), "file")
        ));
    }
    text
}

/// What nobody but the log vouches for.
fn tail(standing: &Standing) -> String {
    match standing.size - standing.witnessed {
        0 => String::new(),
        n => format!(
            "  note    the last {n} nobody has seen: whoever holds the key could still change {}\n",
            if n == 1 { "it" } else { "them" }
        ),
    }
}

/// The text of a proof.
fn proof_text(path: &Path) -> Result<String> {
    let length = fs::metadata(path).map_or(0, |m| m.len());
    if length > MAX_PROOF {
        bail!(
            "{} has {length} bytes, and no proof has more than {MAX_PROOF}",
            shown(path)
        );
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", shown(path)))
}

/// The proof of one entry.
fn proof(path: &Path, args: &LedgerVerifyArgs, trust: Option<TrustPolicy>) -> Result<Verified> {
    let key = args.key.as_deref();
    let proof = TlogProof::parse(&proof_text(path)?)?;
    let (claimed, _) = Checkpoint::parse_note(proof.checkpoint.as_bytes())?;
    let key = the_key(key, trust.as_ref(), Some(&claimed.origin))?;
    let rotations = args
        .rotation
        .iter()
        .map(|path| Ok((shown(path), proof_text(path)?)));
    let rotations = rotations.collect::<Result<Vec<_>>>()?;
    let keys = match State::locate() {
        // This user's own log knows its keys.
        Ok(state) if rotations.is_empty() && args.key.is_none() && trust.is_none() => {
            KeyHistory::read(&state.ledger_dir(), &key, u64::MAX)?
        }
        _ => KeyHistory::following(&key, &rotations)?,
    };
    // An entry has no newline in it: what follows one are its opened fields.
    let extra = proof.extra.as_deref().unwrap_or_default();
    let (held, openings) = match extra.iter().position(|b| *b == b'\n') {
        Some(end) => (&extra[..end], Some(&extra[end + 1..])),
        None => (extra, None),
    };
    let bytes = match (args.entry.as_deref(), held) {
        (Some(path), _) => {
            fs::read(path).with_context(|| format!("cannot read {}", shown(path)))?
        }
        (None, []) => bail!("the proof does not hold the entry; --entry FILE gives it"),
        (None, held) => held.to_vec(),
    };
    let checkpoint = proof.verify_with(&bytes, &keys)?;
    let openings: Vec<Opening> = match openings {
        Some(text) => serde_json::from_slice(text).map_err(|e| {
            anyhow!("what is opened of the entry is not in the form of a proof: {e}")
        })?,
        None => Vec::new(),
    };
    for opening in &openings {
        opening.check(&bytes)?;
    }
    let opened: String = openings
        .iter()
        .map(|o| format!("  opened  {}: {}\n", tame(&o.field), tame(&o.value)))
        .collect();
    let witnessed = match &trust {
        Some(trust) => Some(trust.open(proof.checkpoint.as_bytes(), Some(&keys))?.1),
        None => None,
    };
    let shown_entry = match Entry::from_bytes(&bytes) {
        Ok(entry) => line(proof.index, &entry),
        Err(_) => format!(
            "{:>6}  {} bytes that are no entry of AgentWall\n",
            proof.index,
            bytes.len()
        ),
    };
    let seen = match &witnessed {
        Some(w) => {
            let time = w.time().map(|t| output::ago(t.saturating_mul(1000)));
            let names: Vec<&str> = w.by.iter().map(|(name, _)| name.as_str()).collect();
            format!(
                "  seen    by {} of {} witnesses{}{}\n",
                w.by.len(),
                w.known,
                if names.is_empty() { String::new() } else { format!(" ({})", tame(&names.join(", "))) },
                time.map(|t| format!(", {t}")).unwrap_or_default()
            )
        }
        None => "  note    --policy says which witnesses count; without one, whoever holds the log's key could \
             have made this proof for a history that nobody else has\n"
            .to_owned(),
    };
    Ok(Verified {
        text: format!(
            "{} {}\n{shown_entry}{opened}  in      {} of {} entries, root {}\n  signed  {}\n{seen}",
            paint(Style::Green, "verified"),
            shown(path),
            tame(&checkpoint.origin),
            checkpoint.size,
            checkpoint.root,
            tame(&keys.newest().to_string()),
        ),
        json: json!({
            "file": shown(path),
            "origin": checkpoint.origin,
            "index": proof.index,
            "size": checkpoint.size,
            "root": checkpoint.root.to_string(),
            "key": keys.newest().to_string(),
            "entry": serde_json::from_slice::<Value>(&bytes).ok(),
            "opened": openings.iter().map(|o| (&o.field, &o.value)).collect::<BTreeMap<_, _>>(),
            "witnessed": witnessed.map(|w| json!({
                "by": w.by.iter().map(|(name, _)| name).collect::<Vec<_>>(),
                "witnesses": w.known,
                "time": w.time().map(|t| crate::state::rfc3339_of(t.saturating_mul(1000))),
            })),
        }),
    })
}

/// The key that is given; else the policy's, of that origin or the only one; else this user's own.
fn the_key(
    given: Option<&OsStr>,
    trust: Option<&TrustPolicy>,
    origin: Option<&str>,
) -> Result<Verifier> {
    if let Some(given) = given {
        return given_key(given);
    }
    let logs = trust.map(TrustPolicy::logs).unwrap_or_default();
    let mut known = logs
        .iter()
        .map(|l| &l.key)
        .filter(|k| origin.is_none_or(|o| k.name() == o));
    match (known.next(), known.next()) {
        (Some(key), None) => Ok(key.clone()),
        (Some(_), Some(_)) => Err(UsageError(
            "the policy knows several logs; --key says which one this is".to_owned(),
        )
        .into()),
        (None, _) => State::for_reading()?.verifier(),
    }
}

/// The folder, the key that is trusted, and this host's memory where it belongs to that log.
pub fn what(dir: Option<&Path>, key: Option<&OsStr>) -> Result<(PathBuf, VerifyOptions)> {
    // With both given, no state of this host is needed.
    if let (Some(dir), Some(key)) = (dir, key) {
        return Ok((dir.to_owned(), VerifyOptions::new(given_key(key)?)));
    }
    let state = State::for_reading()?;
    let own = state.ledger_dir();
    let given = dir.is_some();
    let dir = dir.map_or_else(|| own.clone(), Path::to_owned);
    let same = fs::canonicalize(&dir).is_ok_and(|d| fs::canonicalize(&own).is_ok_and(|o| o == d));
    let key = match key {
        Some(key) => given_key(key)?,
        None if !state.key_path().exists() && !has_log(&own) => return Err(NothingThere.into()),
        None => state.verifier()?,
    };
    let mut options = VerifyOptions::new(key);
    if same || !given {
        settle(&state);
        options.head = Some(state.head_path());
    }
    Ok((dir, options))
}

/// A public key as text, or the first line of a file.
pub fn given_key(given: &OsStr) -> Result<Verifier> {
    let text = match given.to_str().filter(|t| t.contains('+')) {
        Some(text) if !Path::new(given).exists() => text.to_owned(),
        _ => fs::read_to_string(given)
            .with_context(|| format!("cannot read the key file {}", shown(Path::new(given))))?,
    };
    let line = text.lines().next().unwrap_or_default().trim();
    Verifier::parse(line).map_err(|e| {
        let expected = "expected NAME+ID+KEY, as 'agentwall ledger key' prints it";
        anyhow!(UsageError(format!(
            "this is not a log's public key: {e}; {expected}"
        )))
    })
}
