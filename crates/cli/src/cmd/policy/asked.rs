//! An action as a person or another program asks about it, before it has a canonical object.
//!
//! `explain` and `decide` make their actions here and nowhere else, so that both ask about the same
//! thing. The object is made canonical as the wall would do it: paths are absolute, `~/` is the home
//! folder, links are followed where there is an object. Both answer with [`Policy::answer`](agentwall_policy::Policy::answer). What the asker does not say is what a run in
//! this workspace would say: the workspace and the time.

use std::{collections::BTreeSet, fs, path::Path};

use agentwall_action::{
    Action, Auth, Facts, ObjectKind, Resource, Session, Subject, Verb, VerbFamily, escape_text,
};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{cmd::policy::unique, output::UsageError, state};

/// Who acts when nobody says.
pub const SUBJECT: &str = "agent:agent";

/// What is asked about. As JSON it is read strictly: an unknown key or fact is an error, because the
/// asker believes that it is looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Who acts; [`SUBJECT`] when left out.
    #[serde(default)]
    pub subject: Option<String>,
    /// The verb, for example `tool.call`.
    #[serde(alias = "verb")]
    pub action: String,
    /// The object as the asker names it.
    pub resource: String,
    /// `args`: a list for `process.exec`, an object of named arguments for calls.
    #[serde(default, deserialize_with = "unique::value")]
    pub args: Value,
    /// `labels` of the object or the session.
    #[serde(default)]
    pub labels: BTreeSet<String>,
    /// `auth`, by the names of [`Auth`].
    #[serde(default, deserialize_with = "some_unique")]
    pub auth: Option<Value>,
    /// `session`, by the names of [`Session`].
    #[serde(default, deserialize_with = "some_unique")]
    pub session: Option<Value>,
    /// `risk`, 0 to 100.
    #[serde(default)]
    pub risk: u8,
    /// `time` in seconds since the Unix epoch; now when left out.
    #[serde(default)]
    pub time: Option<i64>,
}

impl Asked {
    /// The action for a run in `workspace`. What the asker got wrong is a [`UsageError`].
    pub fn action(&self, workspace: &Path) -> Result<Action> {
        let verb: Verb = self.action.parse().map_err(|_| {
            let known: Vec<&str> = Verb::ALL.iter().map(|v| v.as_str()).collect();
            UsageError(format!(
                "unknown action '{}'; the actions are {}",
                escape_text(&self.action),
                known.join(", ")
            ))
        })?;
        let resource = resource(verb, &self.resource)?;
        let subject = self.subject.as_deref().unwrap_or(SUBJECT);
        let mut action = Action::new(Subject(subject.to_owned()), verb, resource);
        action.facts = self.facts(workspace)?;
        Ok(action)
    }

    fn facts(&self, workspace: &Path) -> Result<Facts> {
        if self.risk > 100 {
            bail!(UsageError(format!("risk is {}; it is 0 to 100", self.risk)));
        }
        let mut session: Session = fact("session", self.session.as_ref())?;
        if session.workspace.is_empty() {
            session.workspace = workspace.to_string_lossy().into_owned();
        }
        Ok(Facts {
            auth: fact::<Auth>("auth", self.auth.as_ref())?,
            session,
            args: self.args.clone(),
            labels: self.labels.clone(),
            risk: self.risk,
            time: self
                .time
                .unwrap_or_else(|| i64::try_from(state::now_ms() / 1000).unwrap_or(i64::MAX)),
        })
    }
}

/// The canonical object of what a person names.
fn resource(verb: Verb, text: &str) -> Result<Resource> {
    let mut text = text.to_owned();
    let by_path = matches!(
        verb.family(),
        VerbFamily::File | VerbFamily::Process | VerbFamily::Device
    );
    if by_path && !text.starts_with('/') {
        let home = text
            .strip_prefix("~/")
            .and_then(|rest| Some((state::home().ok()?, rest)));
        let path = match home {
            Some((home, rest)) => home.join(rest),
            None => std::env::current_dir()
                .context("cannot tell the current folder")?
                .join(&text),
        };
        text = path.to_string_lossy().into_owned();
    }
    let mut resource =
        Resource::parse(verb.family(), &text).map_err(|e| UsageError(e.to_string()))?;
    // The wall decides on the object, not on the name: follow links where there is an object.
    if let Resource::Path(object) = &mut resource
        && let Ok(real) = fs::canonicalize(&object.path)
    {
        object.kind = if real.is_dir() {
            ObjectKind::Directory
        } else {
            ObjectKind::File
        };
        object.path = real;
    }
    Ok(resource)
}

fn some_unique<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    unique::value(from).map(Some)
}

/// A structured fact, read strictly: the vocabulary's own types ignore what they do not know, so
/// what was given is compared with what was understood.
fn fact<T: DeserializeOwned + Serialize + Default>(
    name: &str,
    given: Option<&Value>,
) -> Result<T, UsageError> {
    let Some(given) = given else {
        return Ok(T::default());
    };
    let wrong = |e: String| UsageError(format!("{name}: {}", escape_text(&e)));
    let Some(fields) = given.as_object() else {
        return Err(wrong("it is an object of fields".into()));
    };
    let read = T::deserialize(given).map_err(|e| wrong(e.to_string()))?;
    let known = serde_json::to_value(&read).map_err(|e| wrong(e.to_string()))?;
    match fields.keys().find(|k| known.get(k.as_str()).is_none()) {
        Some(key) => Err(wrong(format!("unknown field '{key}'"))),
        None => Ok(read),
    }
}
