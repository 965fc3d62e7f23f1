//! A server that is a program: its client speaks with it over standard input and output, one message a line, and every
//! line goes through here.
//!
//! The client is a program of the same user, so there is no token: the agent is `agent:local/NAME`. A carriage return in
//! a line is refused in both directions: readers that take it for a line's end would find other messages in it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use agentwall_budget::OnFailure;
use agentwall_identity::parse_json;
use http::HeaderMap;
use serde_json::Value;

use super::{
    Asked, Server, asked,
    filter::FilterError,
    members::Members,
    reply,
    rpc::{Kind, Message, is_id},
};
use crate::{
    answer::{Disclosure, Refusal},
    gateway::{now, random},
    judge::{Caller, Judge, Permit, Verdict},
    record::Ended,
};

/// Longest line of a client, in bytes.
pub const MAX_LINE: usize = 4 << 20;

/// Most calls whose answers are waited for; the ends of more are not recorded.
const MAX_OPEN: usize = 4096;

/// A server that is a program, and its client.
#[derive(Debug)]
pub struct Wrapped {
    server: Server,
    judge: Judge,
    caller: Caller,
    /// What the program was started as, for people and the record.
    command: String,
    disclosure: Disclosure,
    /// Calls that were passed on, by the id of their message.
    open: Mutex<HashMap<String, (String, Instant)>>,
}

/// What becomes of a line of the client.
#[derive(Debug)]
pub enum Step {
    /// It goes on. The permit is given back if it cannot.
    On(Permit),
    /// It does not, and the client is told so.
    Answer(Value),
    /// It does not, and wants no answer.
    Dropped(String),
}

/// A line of the server that does not go on.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Withheld {
    /// Why not.
    pub why: FilterError,
    /// What the client is told in its place, if the line is the answer to a call that it waits for.
    pub answer: Option<Value>,
}

/// In the place of a host's id: the client is a program of this host's user.
const LOCAL: &str = "local";

impl Wrapped {
    /// The program that was started as `command`, used by the agent that the client calls itself.
    pub fn new(server: Server, judge: Judge, agent: &str, command: String) -> Wrapped {
        Wrapped {
            server,
            judge,
            caller: Caller {
                agent: agent.to_owned(),
                host: LOCAL.to_owned(),
                subject: Caller::subject_of(LOCAL, agent),
                name: agent.to_owned(),
                by: None,
                since: 0,
                jti: String::new(),
                once: Vec::new(),
            },
            command,
            disclosure: Disclosure::Full,
            open: Mutex::default(),
        }
    }

    /// Who decides.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// A line of the client, without its end.
    pub async fn of_client(&self, line: &[u8]) -> Step {
        let read = match line.contains(&b'\r') {
            true => Err((None, -32700, "a line has a carriage return".to_owned())),
            false => Message::read(line, MAX_LINE).map_err(|e| (None, e.code(), e.to_string())),
        };
        let read = read.and_then(|message| match asked(&message) {
            Ok(what) => Ok((message, what)),
            Err(e) => Err((message.id, e.code(), e.to_string())),
        });
        let (message, what) = match read {
            Ok(read) => read,
            Err((id, code, text)) => return Step::Answer(reply::error(id.as_ref(), code, &text)),
        };
        // The server's answer would be the end of either.
        if let Some(id) = message.id.as_ref().filter(|_| message.wants_answer())
            && self.open().contains_key(&id.to_string())
        {
            let text = "Invalid Request: a call with this 'id' is not answered yet";
            return Step::Answer(reply::error(Some(id), -32600, text));
        }
        let call = self.server.call(
            &message,
            &what,
            (&self.command, &HeaderMap::new()),
            OnFailure::Closed,
            String::new(),
        );
        let verdict = self
            .judge
            .judge(&self.caller, &call, random(), random, now());
        match verdict.await {
            Verdict::Go(permit) => {
                if let (Some(id), true) = (&message.id, message.wants_answer()) {
                    let mut open = self.open();
                    if open.len() < MAX_OPEN {
                        open.insert(id.to_string(), (permit.id.clone(), Instant::now()));
                    }
                }
                if let Some(id) = cancelled(&message) {
                    self.close(id, Some("the client has cancelled it"));
                }
                Step::On(permit)
            }
            Verdict::Stop(refusal) => self.refused(&message, &what, &refusal),
        }
    }

    fn refused(&self, message: &Message, what: &Asked, refusal: &Refusal) -> Step {
        match &message.id {
            Some(id) if message.wants_answer() => {
                Step::Answer(reply::refusal(id, what, refusal, self.disclosure))
            }
            _ => Step::Dropped(refusal.message.clone()),
        }
    }

    /// The line could not be passed on: what was charged is given back.
    pub async fn not_sent(&self, permit: &Permit) {
        self.open().retain(|_, (call, _)| *call != permit.id);
        self.judge.release(permit).await;
        self.ended(
            permit.id.clone(),
            Instant::now(),
            Some("the server has ended"),
        );
    }

    /// A line of the server, without its end: what goes on in its place, or nothing if it goes on as it came.
    ///
    /// # Errors
    /// It is no message, or cannot be looked at. It does not go on, and if it is an answer, that is the end of its call.
    pub fn of_server(&self, line: &[u8]) -> Result<Option<Vec<u8>>, Withheld> {
        let id = answered(line);
        let looked_at = self.looked_at(line);
        let error = looked_at.as_ref().err().map(|_| "its answer is withheld");
        let waited = id.filter(|id| self.close(id, error));
        looked_at.map_err(|why| Withheld {
            answer: waited.map(|id| reply::error(Some(&id), -32603, &why.to_string())),
            why,
        })
    }

    fn looked_at(&self, line: &[u8]) -> Result<Option<Vec<u8>>, FilterError> {
        if line.contains(&b'\r') {
            return Err(FilterError::Message(
                "a line has a carriage return".to_owned(),
            ));
        }
        let filter = self.server.filter(
            self.judge.policy(),
            self.caller.subject.clone(),
            true,
            now(),
        );
        filter.message(line)
    }

    /// The call of this message ended, if it was not yet; whether it was not.
    fn close(&self, id: &Value, error: Option<&str>) -> bool {
        let call = self.open().remove(&id.to_string());
        let waited = call.is_some();
        if let Some((call, began)) = call {
            self.ended(call, began, error);
        }
        waited
    }

    fn ended(&self, call: String, began: Instant, error: Option<&str>) {
        self.judge.recorder().ended(&Ended {
            call: &call,
            status: None,
            error,
            took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// The server ended: calls that it did not answer have no answer.
    pub fn over(&self) {
        let open: Vec<_> = self.open().drain().collect();
        for (_, (call, began)) in open {
            self.ended(call, began, Some("the server ended before it answered"));
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, (String, Instant)>> {
        self.open.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The id of the call that the client does not wait for any more.
fn cancelled(message: &Message) -> Option<&Value> {
    match &message.kind {
        Kind::Call { method, params } if method == "notifications/cancelled" => {
            params.get("requestId")
        }
        _ => None,
    }
}

/// The id of the message that the line is the answer to.
fn answered(line: &[u8]) -> Option<Value> {
    let members = Members::read(line).ok()?;
    let id = members
        .get("id")
        .filter(|_| members.get("method").is_none())?;
    let id = parse_json(id.get().as_bytes(), MAX_LINE).ok()?;
    is_id(&id).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentwall_budget::{Counters, Embedded};
    use agentwall_identity::Event;
    use agentwall_policy::{Layer, Source, Variables, load};
    use serde_json::json;

    use super::*;
    use crate::{
        judge::Parts,
        mcp::definitions::tests::Kept,
        record::{Answered, Judged, RecordError, Recorder},
    };

    /// Remembers how calls ended.
    #[derive(Debug, Default)]
    struct Ends(Mutex<Vec<Option<String>>>);

    impl Recorder for Ends {
        fn judged(&self, _: &Judged<'_>) -> Result<(), RecordError> {
            Ok(())
        }

        fn ended(&self, ended: &Ended<'_>) {
            self.0.lock().unwrap().push(ended.error.map(str::to_owned));
        }

        fn answered(&self, _: &Answered<'_>) -> Result<(), RecordError> {
            Ok(())
        }

        fn principal(&self, _: &Event) -> Result<(), RecordError> {
            Ok(())
        }
    }

    fn wrapped() -> (Wrapped, Arc<Ends>) {
        let source = Source::new("t", "agentwall: 1\ndefault: allow\n", Layer::User);
        let ends = Arc::new(Ends::default());
        let judge = Judge::new(Parts {
            gateway: "srv".into(),
            session: "s1".into(),
            policy: Arc::new(load(&[source], &Variables::default()).unwrap()),
            counters: Counters::Embedded(Embedded::default()),
            recorder: Arc::clone(&ends) as Arc<dyn Recorder>,
            deviations: Vec::new(),
        });
        let server = Server::new("srv", Arc::new(Kept::default()));
        (Wrapped::new(server, judge, "a", "srv".into()), ends)
    }

    fn ping(id: u64) -> String {
        json!({ "jsonrpc": "2.0", "id": id, "method": "ping" }).to_string()
    }

    async fn goes(wrapped: &Wrapped, line: &str) -> Permit {
        match wrapped.of_client(line.as_bytes()).await {
            Step::On(permit) => permit,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_looked_at_is_answered() {
        let (wrapped, ends) = wrapped();
        goes(&wrapped, &ping(1)).await;
        let line = br#"{"jsonrpc":"2.0","id":1,"result":{"a":{"b":1,"b":2}}}"#;
        let told = wrapped.of_server(line).unwrap_err().answer.unwrap();
        assert_eq!(
            (&told["id"], &told["error"]["code"]),
            (&json!(1), &json!(-32603))
        );
        assert_eq!(ends.0.lock().unwrap().len(), 1);
        // Nobody waits any more, nor for what is no answer.
        assert!(wrapped.of_server(line).unwrap_err().answer.is_none());
        goes(&wrapped, &ping(1)).await;
        assert!(wrapped.of_server(b"none").unwrap_err().answer.is_none());
        let good = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert_eq!(wrapped.of_server(good).unwrap(), None);
        let found = ends.0.lock().unwrap().clone();
        assert_eq!(found, [Some("its answer is withheld".to_owned()), None]);
    }

    #[tokio::test]
    async fn an_id_is_used_again_when_its_call_is_over() {
        let (wrapped, ends) = wrapped();
        goes(&wrapped, &ping(1)).await;
        let Step::Answer(told) = wrapped.of_client(ping(1).as_bytes()).await else {
            panic!("a second call of one id");
        };
        assert_eq!(
            (&told["id"], &told["error"]["code"]),
            (&json!(1), &json!(-32600))
        );
        let other = goes(&wrapped, &ping(2)).await;
        wrapped.not_sent(&other).await;
        goes(&wrapped, &ping(2)).await;
        goes(
            &wrapped,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
        )
        .await;
        goes(&wrapped, &ping(1)).await;
        assert_eq!(ends.0.lock().unwrap().len(), 2);
    }
}
