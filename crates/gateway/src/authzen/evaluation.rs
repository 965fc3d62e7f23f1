//! An access evaluation (AuthZEN Authorization API 1.0, sections 5 and 6): how it is read, and which action it asks about.
//!
//! Whoever asks has verified the subject, and says what the object is. So nothing is looked up here, and objects whose name has
//! to be resolved on the host where they are (paths, endpoints) are not decided: `..` or a link would make them others.

use std::fmt;

use agentwall_action::{Subject, Verb, VerbFamily};
use http::Uri;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::target::Target;

/// Longest type of an entity and name of an action or of a member of the context, in bytes.
const MAX_NAME: usize = 128;

/// Longest id, in bytes.
const MAX_ID: usize = 2048;

/// Most members of a context.
const MAX_CONTEXT: usize = 64;

/// The type of subjects that are agents of this gateway, by their ids.
pub const AGENT: &str = "agent";

/// The type of resources that are capabilities of the API.
pub const CAPABILITY: &str = "capability";

/// The type of resources whose id is a URL.
const URL: &str = "url";

/// Members of the context that are the protocol's own, or change from one question to the next. No rule sees them and no approval
/// is bound to them. What time it is, is this host's business.
const NOT_RELEVANT: &[&str] = &[
    "approval",
    "access_request",
    "evaluation_id",
    "evaluated_at",
    "reason",
    "time",
];

/// A subject or a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// Letters, digits, `_`, `-` and `.`.
    pub kind: String,
    /// Unique among those of the type.
    pub id: String,
    /// What else is known of it.
    pub properties: Map<String, Value>,
}

/// A question: may the subject do that to the resource?
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Who.
    pub subject: Entity,
    /// What.
    pub action: String,
    /// More about it.
    pub properties: Map<String, Value>,
    /// To what.
    pub resource: Entity,
    /// Under which circumstances: what rules can see of the context.
    pub context: Map<String, Value>,
    /// The approval that is relied on.
    pub approval: Option<String>,
}

/// What is asked of the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The verb.
    pub verb: Verb,
    /// The object's name.
    pub resource: String,
    /// What conditions see as `args`.
    pub arguments: Map<String, Value>,
}

/// A request that is no evaluation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// Something is missing or of another type.
    #[error("'{0}' is missing, or is not {1}")]
    Member(String, &'static str),
    /// A type, name or id that has no place in a rule.
    #[error("'{0}' has {1}")]
    Form(String, &'static str),
    /// An object that cannot be decided from here.
    #[error(
        "'{0}' is about objects that have to be resolved on the host where they are; it is not decided here"
    )]
    Local(Verb),
    /// A URL that has no one meaning.
    #[error("'resource.id': {0}")]
    Url(String),
}

use EvaluationError::{Form, Member};

impl Evaluation {
    /// Reads an evaluation. Members that are not known are ignored.
    ///
    /// # Errors
    /// It is none.
    pub fn read(members: &Map<String, Value>) -> Result<Evaluation, EvaluationError> {
        Evaluation::with_defaults(members, &Map::new())
    }

    /// Reads one of several evaluations. What it has stands in the place of the same member of `defaults` (section 7.1.1), whose type,
    /// id or name it takes over where it has none.
    ///
    /// # Errors
    /// It is none.
    pub fn with_defaults(
        members: &Map<String, Value>,
        defaults: &Map<String, Value>,
    ) -> Result<Evaluation, EvaluationError> {
        let both = |name: &'static str| (members.get(name), defaults.get(name));
        let (action, fallback) = objects("action", both("action"))?;
        let name = member("action", "name", action, fallback)?;
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(Form(
                "action.name".into(),
                "more than 128 bytes, or a control character",
            ));
        }
        let empty = Map::new();
        let context = match both("context") {
            (Some(Value::Object(context)), _) | (None, Some(Value::Object(context))) => context,
            (None, None) => &empty,
            _ => return Err(Member("context".into(), "an object")),
        };
        if context.len() > MAX_CONTEXT || context.keys().any(|name| name.len() > MAX_NAME) {
            return Err(Form(
                "context".into(),
                "more than 64 members, or a name longer than 128 bytes",
            ));
        }
        let approval = match context.get("approval") {
            None => None,
            Some(approval) => match approval.get("id").and_then(Value::as_str) {
                Some(id) => Some(id.to_owned()),
                None => return Err(Member("context.approval.id".into(), "text")),
            },
        };
        Ok(Evaluation {
            subject: entity("subject", both("subject"))?,
            action: name.to_owned(),
            properties: properties("action", action)?,
            resource: entity("resource", both("resource"))?,
            context: (context.iter())
                .filter(|(name, _)| !NOT_RELEVANT.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            approval,
        })
    }

    /// Whom rules are about, where it is no agent of the gateway: `user:alice`.
    pub fn subject(&self) -> Subject {
        Subject(self.subject.to_string())
    }

    /// The action that it is. A name that is a verb of the policy is that verb, its properties the named arguments, as a call at
    /// the gateway has them. Every other name is an `api.call` on `TYPE:ID`, with everything that was said as `args`.
    ///
    /// # Errors
    /// It is about something that cannot be decided here.
    pub fn asked(&self) -> Result<Asked, EvaluationError> {
        let Ok(verb) = self.action.parse::<Verb>() else {
            let all = [
                ("action", json!(self.action)),
                ("properties", json!(self.properties)),
                ("subject", json!(self.subject.properties)),
                ("resource", json!(self.resource.properties)),
                ("context", json!(self.context)),
            ];
            return Ok(Asked {
                verb: Verb::ApiCall,
                resource: self.resource.to_string(),
                arguments: all
                    .map(|(name, value)| (name.to_owned(), value))
                    .into_iter()
                    .collect(),
            });
        };
        if verb.family() != VerbFamily::Named {
            return Err(EvaluationError::Local(verb));
        }
        let resource = match self.resource.kind == URL {
            true => url(&self.resource.id)?,
            false => self.resource.to_string(),
        };
        Ok(Asked {
            verb,
            resource,
            arguments: self.properties.clone(),
        })
    }

    /// SHA-256 of all that was asked, in canonical form (RFC 8785).
    pub fn digest(&self) -> [u8; 32] {
        let all = json!({
            "subject": self.subject.to_json(),
            "action": { "name": self.action, "properties": self.properties },
            "resource": self.resource.to_json(),
            "context": self.context,
        });
        // Values that came from JSON always have a form.
        Sha256::digest(serde_json_canonicalizer::to_string(&all).unwrap_or_default()).into()
    }
}

impl Entity {
    fn to_json(&self) -> Value {
        json!({ "type": self.kind, "id": self.id, "properties": self.properties })
    }
}

/// `TYPE:ID`. No type has a colon, so no two entities have one text.
impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

type Both<'a> = (Option<&'a Value>, Option<&'a Value>);
type Object = Map<String, Value>;

/// The object of an evaluation and what it falls back to; the default itself where it has none.
fn objects<'a>(
    name: &str,
    both: Both<'a>,
) -> Result<(&'a Object, Option<&'a Object>), EvaluationError> {
    let wrong = || Member(name.to_owned(), "an object");
    let default = both
        .1
        .map(|v| v.as_object().ok_or_else(wrong))
        .transpose()?;
    match both.0 {
        Some(own) => Ok((own.as_object().ok_or_else(wrong)?, default)),
        None => Ok((default.ok_or_else(wrong)?, None)),
    }
}

fn member<'a>(
    of: &str,
    name: &str,
    own: &'a Object,
    default: Option<&'a Object>,
) -> Result<&'a str, EvaluationError> {
    let value = own.get(name).or_else(|| default?.get(name));
    let text = value
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    text.ok_or_else(|| Member(format!("{of}.{name}"), "text"))
}

fn properties(of: &str, own: &Object) -> Result<Object, EvaluationError> {
    match own.get("properties") {
        None => Ok(Map::new()),
        Some(Value::Object(properties)) => Ok(properties.clone()),
        Some(_) => Err(Member(format!("{of}.properties"), "an object")),
    }
}

fn entity(name: &'static str, both: Both<'_>) -> Result<Entity, EvaluationError> {
    let (own, default) = objects(name, both)?;
    let kind = member(name, "type", own, default)?;
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if kind.len() > MAX_NAME || !kind.bytes().all(known) {
        return Err(Form(
            format!("{name}.type"),
            "other characters than letters, digits, '_', '-' and '.'",
        ));
    }
    let id = member(name, "id", own, default)?;
    if id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(Form(
            format!("{name}.id"),
            "more than 2,048 bytes, or a control character",
        ));
    }
    Ok(Entity {
        kind: kind.to_owned(),
        id: id.to_owned(),
        properties: properties(name, own)?,
    })
}

/// A URL in the spelling that the gateway's own calls have: without a query, whose parameters are arguments.
fn url(text: &str) -> Result<String, EvaluationError> {
    let wrong = |why: &str| EvaluationError::Url(why.to_owned());
    let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("it has no scheme or no host"));
    };
    if authority.as_str().contains('@') || text.contains('#') {
        return Err(wrong("it has a user or a fragment"));
    }
    let target = Target::of(&uri).map_err(|e| EvaluationError::Url(e.to_string()))?;
    if target.query().is_some() {
        return Err(wrong(
            "it has a query; its parameters are properties.arguments of the action",
        ));
    }
    let authority = authority.as_str().to_ascii_lowercase();
    Ok(format!(
        "{}://{authority}{}",
        scheme.to_ascii_lowercase(),
        target.path()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Evaluation, EvaluationError> {
        Evaluation::read(value.as_object().unwrap())
    }

    fn plain() -> Value {
        json!({ "subject": { "type": "user", "id": "alice" }, "action": { "name": "read" },
                "resource": { "type": "record", "id": "r:1" } })
    }

    fn with(pointer: &str, value: Value) -> Result<Evaluation, EvaluationError> {
        let mut all = plain();
        let (of, name) = pointer.rsplit_once('/').unwrap();
        all.pointer_mut(of).unwrap()[name] = value;
        read(all)
    }

    #[test]
    fn what_is_missing_or_wrong_is_no_evaluation() {
        assert!(read(plain()).is_ok());
        for name in ["subject", "action", "resource"] {
            let mut all = plain();
            all.as_object_mut().unwrap().remove(name);
            assert!(read(all).is_err(), "without {name}");
            assert!(with(&format!("/{name}"), json!("alice")).is_err());
        }
        for (pointer, value) in [
            ("/subject/type", json!("user:admin")),
            ("/subject/type", json!("")),
            ("/subject/id", json!(1)),
            ("/subject/id", json!("a\nb")),
            ("/subject/properties", json!([])),
            ("/action/name", json!(123)),
            ("/resource/id", json!("x".repeat(MAX_ID + 1))),
            ("/context", json!("now")),
            ("/context", json!({ "approval": "apr_1" })),
        ] {
            assert!(with(pointer, value.clone()).is_err(), "{pointer} {value}");
        }
        assert!(with("/future", json!({ "nested": [1] })).is_ok());
    }

    #[test]
    fn a_verb_is_a_verb_and_everything_else_a_call() {
        let read = with("/resource/properties", json!({ "status": "active" })).unwrap();
        let asked = read.asked().unwrap();
        assert_eq!(
            (asked.verb, asked.resource.as_str()),
            (Verb::ApiCall, "record:r:1")
        );
        assert_eq!(asked.arguments["action"], "read");
        assert_eq!(asked.arguments["resource"]["status"], "active");
        let call = |name: &str, resource: Value| {
            let mut all = plain();
            all["action"] = json!({ "name": name, "properties": { "amount": 7 } });
            all["resource"] = resource;
            super::Evaluation::read(all.as_object().unwrap())?.asked()
        };
        let asked = call(
            "api.call",
            json!({ "type": "capability", "id": "transfer" }),
        )
        .unwrap();
        assert_eq!(
            (asked.verb, asked.resource.as_str()),
            (Verb::ApiCall, "capability:transfer")
        );
        assert_eq!(asked.arguments["amount"], 7);
        let at =
            |id: &str| call("http.request", json!({ "type": "url", "id": id })).map(|a| a.resource);
        assert_eq!(
            at("HTTPS://Api.Example/%61").as_deref(),
            Ok("https://api.example/a")
        );
        for id in [
            "/a",
            "https://a/x/../b",
            "https://a//b",
            "https://a/b?c=d",
            "https://u@a/",
            "https://a/#b",
        ] {
            assert!(at(id).is_err(), "{id}");
        }
        for verb in ["file.read", "net.connect", "process.exec", "dns.resolve"] {
            let asked = call(verb, json!({ "type": "file", "id": "/etc/passwd" }));
            assert!(matches!(asked, Err(EvaluationError::Local(_))), "{verb}");
        }
    }

    #[test]
    fn one_of_several_replaces_whole_members() {
        let defaults = json!({ "subject": { "type": "user", "id": "alice", "properties": { "role": "admin" } },
                               "action": { "name": "write" }, "resource": { "type": "record" } });
        let item = json!({ "subject": { "id": "bob" }, "resource": { "id": "r2" } });
        let read =
            Evaluation::with_defaults(item.as_object().unwrap(), defaults.as_object().unwrap())
                .unwrap();
        assert_eq!(
            (read.subject.to_string(), read.resource.to_string()),
            ("user:bob".into(), "record:r2".into())
        );
        assert!(
            read.subject.properties.is_empty(),
            "bob is no admin because alice is"
        );
        let nothing = Evaluation::with_defaults(&Map::new(), defaults.as_object().unwrap());
        assert_eq!(nothing, Err(Member("resource.id".into(), "text")));
    }

    #[test]
    fn what_the_protocol_adds_is_no_circumstance() {
        let first = with("/context", json!({ "ip": "::1", "time": "t1" })).unwrap();
        let again = with(
            "/context",
            json!({ "ip": "::1", "time": "t2", "approval": { "id": "a1" } }),
        )
        .unwrap();
        assert_eq!(first.digest(), again.digest());
        assert_eq!(again.approval.as_deref(), Some("a1"));
        let other = with("/context", json!({ "ip": "::2" })).unwrap();
        assert_ne!(first.digest(), other.digest());
        assert_ne!(
            read(plain()).unwrap().digest(),
            with("/subject/properties", json!({ "a": 1 }))
                .unwrap()
                .digest()
        );
    }
}
