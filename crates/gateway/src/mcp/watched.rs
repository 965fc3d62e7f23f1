//! An answer of a server that is a stream of events: each message in it is looked at as it goes on.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;

use super::{
    filter::Filter,
    rpc::MAX_ANSWER,
    sse::{self, Events},
};
use crate::serve::{Body, BodyError};

/// A stream of events that is looked at as it goes on.
pub struct Watched {
    body: Body,
    events: Events,
    filter: Filter,
    ready: VecDeque<Bytes>,
    /// How it ends, behind what is ready: as a stream does, or with an event that does not go on.
    ended: Option<Option<BodyError>>,
}

impl Watched {
    /// What the server says, for whom the filter is.
    pub fn new(body: Body, filter: Filter) -> Watched {
        Watched {
            body,
            events: Events::new(MAX_ANSWER),
            filter,
            ready: VecDeque::new(),
            ended: None,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let pushed = self.events.push(bytes);
        while let Some(event) = self.events.whole() {
            self.one(&event)?;
        }
        pushed.map_err(wrong)
    }

    fn one(&mut self, event: &[u8]) -> Result<(), BodyError> {
        let data = sse::data(event);
        let other = match data.as_deref().filter(|data| !data.is_empty()) {
            Some(data) => self.filter.message(data).map_err(wrong)?,
            None => None,
        };
        let data = other.or(data).map(String::from_utf8).transpose();
        let event = sse::written(event, data.map_err(wrong)?.as_deref());
        if !event.is_empty() {
            self.ready.push_back(event);
        }
        Ok(())
    }
}

fn wrong(e: impl std::fmt::Display) -> BodyError {
    BodyError::Message(e.to_string())
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if let Some(end) = &mut self.ended {
                return Poll::Ready(end.take().map(Err));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers of the server mean nothing in MCP.
                    if let Ok(bytes) = frame.into_data()
                        && let Err(e) = self.take(&bytes)
                    {
                        self.ended = Some(Some(e));
                    }
                }
                Poll::Ready(Some(Err(e))) => self.ended = Some(Some(e)),
                // What is left behind the last event is no whole one, which no client reads.
                Poll::Ready(None) => {
                    let last = self.events.last();
                    let end = last.map_or(Ok(()), |event| self.one(&event));
                    self.ended = Some(end.err());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::{super::filter::tests::filter, *};

    /// What goes on of a stream, and whether it ends as one does.
    async fn of(stream: &str) -> (String, bool) {
        let body = Full::new(Bytes::copy_from_slice(stream.as_bytes()));
        let body = body.map_err(|never| match never {}).boxed();
        let mut watched = Watched::new(body, filter(&std::sync::Arc::default()));
        let mut all = Vec::new();
        while let Some(frame) = watched.frame().await {
            match frame {
                Ok(frame) => all.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => {
                    assert!(watched.frame().await.is_none());
                    return (String::from_utf8(all).unwrap(), false);
                }
            }
        }
        (String::from_utf8(all).unwrap(), true)
    }

    #[tokio::test]
    async fn good_events_go_on_before_one_that_does_not() {
        let good = "data: {\"jsonrpc\":\"2.0\",\"method\":\"a\"}\n\n";
        let found = of(&format!("{good}: x\n\n{good}data: none\n\n{good}")).await;
        assert_eq!(found, (format!("{good}:\n\n{good}"), false));
        let returns = good.replace('\n', "\r");
        assert_eq!(of(&returns).await, (good.to_owned(), true));
    }

    #[tokio::test]
    async fn no_tool_hides_behind_a_separator_or_a_mark() {
        let list =
            "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"rm\"}]}}";
        let good = "data: {\"jsonrpc\":\"2.0\",\"method\":\"a\"}\n\n";
        for end in ["\u{2028}", "\u{85}", "\u{b}"] {
            let found = of(&format!(": x{end}{list}{end}{end}\n{good}")).await;
            assert_eq!(found, (good.to_owned(), true), "{end:?}");
        }
        let found = of(&format!("{good}\u{feff}{list}\n\n{good}")).await;
        assert_eq!(found, (format!("{good}{good}"), true));
        let (found, _) = of(&format!("\u{feff}{list}\n\n{good}")).await;
        assert!(!found.contains("rm") && found.ends_with(good), "{found}");
    }
}
