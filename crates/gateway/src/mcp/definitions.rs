//! Definitions of tools, pinned: what a tool says of itself is what an agent acts on, so a server that changes it later
//! changes what the agent does ("rug pull").
//!
//! The definition that is seen first is taken as it is, and kept. Another one under the same name is withheld: it does not
//! reach agents and calls of the tool are refused, until a person accepts it or the server says the accepted one again.

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::approvals::{Millis, hex};

/// Longest name of a tool, in bytes.
pub const MAX_NAME: usize = 256;

/// Most tools of a server.
pub const MAX_TOOLS: usize = 4096;

/// How a definition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was never seen before, and is kept now.
    New,
    /// It is the accepted one.
    Same,
    /// It is another one than was accepted.
    Changed,
}

/// What is known of a tool's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The tool.
    pub tool: String,
    /// The accepted definition, canonical.
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

    /// A server told a definition: the first one of a tool is accepted, another one is kept beside it, and the
    /// accepted one takes the place of another one.
    ///
    /// # Errors
    /// It cannot be kept, or there are [`MAX_TOOLS`] already.
    fn told(&self, tool: &str, definition: &str, now: Millis) -> Result<Standing, PinError>;
}

/// A definition in the one form that is compared (RFC 8785): all that the server says of the tool but `_meta`, which no
/// model is shown.
pub fn canonical(definition: &Map<String, Value>) -> String {
    let mut shown = definition.clone();
    shown.shift_remove("_meta");
    // What came from JSON always has a form.
    serde_json_canonicalizer::to_string(&shown).unwrap_or_default()
}

/// SHA-256 of a canonical definition, lower-case hex.
pub fn digest(canonical: &str) -> String {
    hex(&Sha256::digest(canonical))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use serde_json::json;

    use super::*;

    /// Definitions in memory.
    #[derive(Debug, Default)]
    pub struct Kept(pub Mutex<BTreeMap<String, Pin>>);

    impl Pins for Kept {
        fn get(&self, tool: &str) -> Result<Option<Pin>, PinError> {
            Ok(self.0.lock().unwrap().get(tool).cloned())
        }

        fn told(&self, tool: &str, definition: &str, now: Millis) -> Result<Standing, PinError> {
            let mut all = self.0.lock().unwrap();
            let Some(pin) = all.get_mut(tool) else {
                let pin = Pin {
                    tool: tool.into(),
                    accepted: definition.into(),
                    since: now,
                    offered: None,
                };
                all.insert(tool.into(), pin);
                return Ok(Standing::New);
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
        let of = |value: Value| canonical(value.as_object().unwrap());
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
