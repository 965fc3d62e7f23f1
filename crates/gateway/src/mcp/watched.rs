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
}

impl Watched {
    /// What the server says, for whom the filter is.
    pub fn new(body: Body, filter: Filter) -> Watched {
        Watched {
            body,
            events: Events::new(MAX_ANSWER),
            filter,
            ready: VecDeque::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let wrong = |e: &dyn std::fmt::Display| BodyError::Message(e.to_string());
        self.events.push(bytes).map_err(|e| wrong(&e))?;
        while let Some(event) = self.events.whole() {
            let data = sse::data(&event).filter(|data| !data.is_empty());
            let other = match data {
                Some(data) => self.filter.message(&data).map_err(|e| wrong(&e))?,
                None => None,
            };
            let event = other.map_or_else(|| event.clone(), |data| sse::with_data(&event, &data));
            self.ready.push_back(event);
        }
        Ok(())
    }
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
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                // What is left is no whole event, which no client reads.
                other => return other,
            };
            // Trailers of the server mean nothing in MCP.
            if let Ok(bytes) = frame.into_data()
                && let Err(e) = self.take(&bytes)
            {
                return Poll::Ready(Some(Err(e)));
            }
        }
    }
}
