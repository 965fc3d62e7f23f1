//! The agent firewall in front of an API.
//!
//! An agent calls the API through the gateway, with a token of its own key. Each call is one of a capability that it
//! was granted, is judged as every action is - by the engine, under the same policies - and is passed on only with the
//! judge's permit. A refusal tells the agent why and what it may do instead; what needs a person waits for one, bound
//! to exactly what was shown.
//!
//! ```text
//! target      request targets: one spelling for each, or a refusal
//! headers     what of a message's head goes on to the other side
//! catalogue   capabilities, and which request is a call of which
//! arguments   the named arguments of a call
//! judge       policy, risk, budget, approval, record
//! approvals   calls that wait for a person
//! answer      what an agent is told
//! upstream    the API behind the gateway
//! live        what is under way, so that revocation ends it
//! policy      what it does without one
//! record      what is told to whoever keeps the record
//! contact     whether other instances are heard of
//! admin       what its operator does
//! protocol    the Agent Auth Protocol: discovery, registration, capabilities
//! authzen     a policy decision point for enforcement points elsewhere
//! rates       what strangers may do, by address
//! ext_authz   answers an Envoy that makes the calls itself
//! fetch       requests to addresses that strangers name
//! mcp         the Model Context Protocol: servers over HTTP and stdio
//! sender      who sends a request, and its body
//! gateway     all of it, for one request
//! serve       listening
//! ```
//!
//! Invariants:
//! * No call reaches the API without a [`Permit`](judge::Permit), which [`Judge::judge`](judge::Judge::judge) alone makes, after the record of
//!   the decision was accepted.
//! * What was judged is what is sent: target, arguments and body are read once, and have one meaning.
//! * An agent's token never leaves the gateway; the API's credentials never reach an agent.

#![forbid(unsafe_code)]

pub mod admin;
pub mod answer;
pub mod approvals;
pub mod arguments;
pub mod authzen;
pub mod catalogue;
pub mod contact;
pub mod ext_authz;
pub mod fetch;
pub mod gateway;
mod headers;
pub mod judge;
mod live;
pub mod mcp;
pub mod policy;
mod protocol;
pub mod rates;
pub mod record;
mod sender;
pub mod serve;
pub mod target;
pub mod upstream;
