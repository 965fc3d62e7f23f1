//! What a model tells its agent to do, read on the way.
//!
//! The agent speaks plain HTTP to its model API, the wall makes the TLS connection to it. So the wall sees
//! the answers: [`Observer`] finds the tool calls in them, with the text that the model gave before, and hands each to
//! a [`Sink`] *before* the agent gets the bytes that complete it. When the sink refuses (the ledger cannot be
//! written), the connection ends there.
//!
//! Understood are the answers of Anthropic's Messages, OpenAI's Responses and Chat Completions, and Gemini's
//! `generateContent`, whole and streamed; by their shape, so that servers that speak like one of them are, too.
//! What a model says is untrusted: readers are bounded, and what cannot be read is told.
//!
//! ```text
//! carry     HTTP/1.1 on both sides, TLS to the model
//! observer  an answer's bytes -> events
//! sse       text/event-stream (WHATWG HTML, section 9.2)
//! calls     events -> tool calls
//! ```

mod calls;
mod carry;
mod observer;
mod sse;

pub use calls::{MAX_WHY, ToolCall};
pub use carry::{Carried, CarryError, Inspector, Sink};
pub use observer::{MAX_BODY, Observer, Unread};
