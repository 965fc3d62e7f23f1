//! Definitions of tools, pinned: what a tool says of itself is what an agent acts on, so a server that changes it later
//! changes what the agent does ("rug pull").
//!
//! The definition that is seen first is taken as it is, and kept. Another one under the same name is withheld: it does not
//! reach agents and calls of the tool are refused, until a person accepts it or the server says the accepted one again.

use std::fmt;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::approvals::{Millis, hex};

/// Longest name of a tool, in bytes.
pub const MAX_NAME: usize = 256;

/// Longest canonical definition that is kept, in bytes. Of a longer one it is the digest, and a person has to accept it.
pub const MAX_DEFINITION: usize = 64 << 10;

/// Most tools of a server.
pub const MAX_TOOLS: usize = 4096;

/// How a definition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was never seen before, and is kept now.
    New,
    /// It is the accepted one.
    Same,
    /// It is another one than was accepted, or a first one that is not taken on trust.
    Changed,
    /// It was never seen before, and cannot be kept: there are [`MAX_TOOLS`] already.
    TooMany,
}

/// What is known of a tool's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The tool.
    pub tool: String,
    /// The accepted definition, canonical; empty as long as there is none.
    pub accepted: String,
    /// Since when, in milliseconds since 1970.
    pub since: Millis,
    /// Another one that the server told since, canonical.
    pub offered: Option<String>,
}

/// Definitions cannot be read or kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the definitions of tools cannot be kept: {0}")]
pub struct PinError(pub String);

/// Where the definitions of one server's tools are kept, durably.
pub trait Pins: fmt::Debug + Send + Sync {
    /// What is known of a tool.
    ///
    /// # Errors
    /// It cannot be read.
    fn get(&self, tool: &str) -> Result<Option<Pin>, PinError>;

    /// A server told a definition: the first one of a tool is accepted if it is taken on trust, another one is kept beside
    /// it, and the accepted one takes the place of another one.
    ///
    /// # Errors
    /// It cannot be kept.
    fn told(
        &self,
        tool: &str,
        definition: &str,
        on_trust: bool,
        now: Millis,
    ) -> Result<Standing, PinError>;
}

/// A definition in the one form that is compared (RFC 8785): all that the server says of the tool but `_meta`, which no
/// model is shown.
///
/// # Errors
/// It has no such form.
pub fn canonical(definition: &Map<String, Value>) -> Result<String, PinError> {
    let mut shown = definition.clone();
    shown.shift_remove("_meta");
    serde_json_canonicalizer::to_string(&shown).map_err(|e| PinError(e.to_string()))
}

/// What is kept in the place of a canonical definition that is too long.
pub fn stand_in(name: &str, canonical: &str) -> String {
    let (bytes, sha256) = (canonical.len(), digest(canonical));
    json!({ "agentwall/too-long": { "bytes": bytes, "sha256": sha256 }, "name": name }).to_string()
}

/// SHA-256 of a canonical definition, lower-case hex.
pub fn digest(canonical: &str) -> String {
    hex(&Sha256::digest(canonical))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use super::*;

    /// Most tools in memory.
    pub const MOST: usize = 8;

    /// Definitions in memory.
    #[derive(Debug, Default)]
    pub struct Kept(pub Mutex<BTreeMap<String, Pin>>);

    impl Pins for Kept {
        fn get(&self, tool: &str) -> Result<Option<Pin>, PinError> {
            Ok(self.0.lock().unwrap().get(tool).cloned())
        }

        fn told(
            &self,
            tool: &str,
            definition: &str,
            on_trust: bool,
            now: Millis,
        ) -> Result<Standing, PinError> {
            let mut all = self.0.lock().unwrap();
            let full = all.len() >= MOST;
            let Some(pin) = all.get_mut(tool) else {
                if full {
                    return Ok(Standing::TooMany);
                }
                let pin = Pin {
                    tool: tool.into(),
                    accepted: if on_trust {
                        definition.into()
                    } else {
                        String::new()
                    },
                    since: now,
                    offered: (!on_trust).then(|| definition.into()),
                };
                all.insert(tool.into(), pin);
                return Ok(if on_trust {
                    Standing::New
                } else {
                    Standing::Changed
                });
            };
            let same = pin.accepted == definition;
            pin.offered = (!same).then(|| definition.into());
            Ok(if same {
                Standing::Same
            } else {
                Standing::Changed
            })
        }
    }

    #[test]
    fn a_definition_is_what_a_model_is_shown() {
        let of = |value: Value| canonical(value.as_object().unwrap()).unwrap();
        let one = of(
            json!({ "name": "a", "description": "x", "inputSchema": { "b": 1, "a": 2 }, "_meta": { "n": 1 } }),
        );
        let same =
            of(json!({ "inputSchema": { "a": 2, "b": 1.0 }, "name": "a", "description": "x" }));
        assert_eq!(one, same);
        for other in [
            json!({ "name": "a", "description": "y", "inputSchema": { "a": 2, "b": 1 } }),
            json!({ "name": "a", "description": "x", "inputSchema": { "a": 2, "b": 2 } }),
            json!({ "name": "a", "description": "x", "inputSchema": { "a": 2, "b": 1 }, "annotations": {} }),
        ] {
            assert_ne!(one, of(other));
        }
        assert_eq!(digest("{}").len(), 64);
    }
}
