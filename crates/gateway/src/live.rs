//! What is under way for an agent, so that it ends when the agent is revoked.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;

use crate::serve::BodyError;

/// The agents that have something under way.
#[derive(Debug, Default)]
pub struct Live {
    agents: Mutex<HashMap<String, Weak<watch::Sender<bool>>>>,
}

/// Something that is under way; it lasts as long as this.
#[derive(Debug, Clone)]
pub struct Lease {
    revoked: Arc<watch::Sender<bool>>,
}

impl Live {
    /// Something begins for an agent.
    pub fn begin(&self, agent: &str) -> Lease {
        let mut agents = self.agents.lock().unwrap_or_else(|e| e.into_inner());
        let known = agents
            .get(agent)
            .and_then(Weak::upgrade)
            .filter(|s| !*s.borrow());
        if let Some(revoked) = known {
            return Lease { revoked };
        }
        // The dead are few beside the living, or there are many of them.
        if agents.len() >= 64 && agents.len().is_power_of_two() {
            agents.retain(|_, sender| sender.strong_count() > 0);
        }
        let revoked = Arc::new(watch::Sender::new(false));
        agents.insert(agent.to_owned(), Arc::downgrade(&revoked));
        Lease { revoked }
    }

    /// Ends everything of the agents that `is_revoked` names; how many agents had something under way.
    pub fn end(&self, is_revoked: impl Fn(&str) -> bool) -> usize {
        let agents = self.agents.lock().unwrap_or_else(|e| e.into_inner());
        let revoked = agents.iter().filter(|(agent, _)| is_revoked(agent));
        let living = revoked.filter_map(|(_, sender)| sender.upgrade());
        living
            .map(|sender| sender.send_replace(true))
            .filter(|was| !was)
            .count()
    }
}

impl Lease {
    /// Comes back when the agent is revoked.
    pub async fn revoked(&self) {
        let mut receiver = self.revoked.subscribe();
        // The sender lives as long as this.
        let _ = receiver.wait_for(|revoked| *revoked).await;
    }
}

/// A body that breaks off when its agent is revoked: the other side sees that it is not whole.
pub struct Leased<B> {
    body: B,
    over: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl<B> std::fmt::Debug for Leased<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leased").finish_non_exhaustive()
    }
}

impl<B> Leased<B> {
    /// A body on a lease.
    pub fn new(body: B, lease: Lease) -> Leased<B> {
        Leased {
            body,
            over: Box::pin(async move { lease.revoked().await }),
        }
    }
}

impl<B> Body for Leased<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Revoked)));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_revoked_agents_body_breaks_off_and_its_neighbours_goes_on() {
        let live = Live::default();
        let one = Leased::new(Never, live.begin("a1"));
        let two = Leased::new(Never, live.begin("a1"));
        let other = Leased::new(Once("x"), live.begin("a2"));
        let reading = tokio::spawn(one.collect());
        tokio::task::yield_now().await;
        assert_eq!(live.end(|agent| agent == "a1"), 1);
        assert!(matches!(reading.await.unwrap(), Err(BodyError::Revoked)));
        assert!(two.collect().await.is_err());
        assert_eq!(other.collect().await.unwrap().to_bytes(), "x");
        // Whoever is let in again is not ended by what was before.
        let again = Leased::new(Once("y"), live.begin("a1"));
        assert_eq!(again.collect().await.unwrap().to_bytes(), "y");
    }

    /// A body that never has anything.
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Pending
        }
    }

    /// A body of one piece.
    struct Once(&'static str);

    impl Body for Once {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let text = std::mem::take(&mut self.0);
            Poll::Ready(
                (!text.is_empty()).then(|| Ok(Frame::data(Bytes::from_static(text.as_bytes())))),
            )
        }
    }

    #[test]
    fn agents_that_are_done_are_forgotten() {
        let live = Live::default();
        for n in 0..10_000 {
            drop(live.begin(&format!("a{n}")));
        }
        assert!(live.agents.lock().unwrap().len() <= 128);
        assert_eq!(live.end(|_| true), 0);
    }
}
