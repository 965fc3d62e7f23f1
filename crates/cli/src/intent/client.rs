//! The agent's side of the intent socket.

use std::{os::unix::net::UnixStream, path::Path, time::Duration};

use agentwall_action::{Decision, Effect};
use anyhow::{Context as _, Result, bail};
use serde::{Serialize, de::DeserializeOwned};

use super::{Answer, Ended, Ending, Failure, INTENT_PATH, Statement, http};

/// How long an answer may take: the ledger waits for a disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// The session's word that an intent is in its ledger. Only [`state`] makes one, of an answer that says so;
/// what is done on it asks for it. It is no proof to others: that is the ledger's, by [`Answer::index`].
#[derive(Debug)]
pub struct Receipt {
    answer: Answer,
}

impl Receipt {
    /// What was answered.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// What the policy refuses of what was claimed. A question is asked when the action comes.
    pub fn refusal(&self) -> Option<&Decision> {
        let refused = |d: &&Decision| !d.effect.proceeds() && d.effect != Effect::Ask;
        self.answer.decision.as_ref().filter(refused)
    }
}

/// Seals an intent.
pub fn state(statement: &Statement) -> Result<Receipt> {
    let answer = call("/v1/intent", statement).context("the intent is not in the ledger")?;
    Ok(Receipt { answer })
}

/// Ends an action, by its id or by that of its tool call.
pub fn end(id: &str, ending: &Ending) -> Result<Ended> {
    call(&format!("/v1/intent/{id}/end"), ending)
}

fn call<T: DeserializeOwned>(path: &str, body: &impl Serialize) -> Result<T> {
    let outside = "this is not inside a session; start the agent with 'agentwall run', or remove its \
                   hooks with 'agentwall hook install --remove'";
    if !Path::new(INTENT_PATH).exists() {
        bail!("{outside}");
    }
    let stream = UnixStream::connect(INTENT_PATH)
        .with_context(|| format!("the session does not answer at {INTENT_PATH}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let body = serde_json::to_vec(body)?;
    if body.len() > http::MAX_BODY {
        bail!(
            "an intent has at most {} bytes, this one has {}",
            http::MAX_BODY,
            body.len()
        );
    }
    http::write_request(&stream, path, &body).context("the session does not answer")?;
    let (status, body) = http::read_response(&stream).context("the session does not answer")?;
    match status {
        // A refusal is an answer.
        200 | 403 => {
            serde_json::from_slice(&body).context("the session's answer is not understood")
        }
        _ => match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => bail!("{}", failure.error),
            Err(_) => bail!("the session answered with status {status}"),
        },
    }
}
