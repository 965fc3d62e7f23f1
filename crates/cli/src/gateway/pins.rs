//! Definitions of tools, kept in the gateway's folder.

use std::path::Path;

use agentwall_gateway::mcp::definitions::{MAX_TOOLS, Pin, PinError, Pins, Standing};
use agentwall_store::{Told, ToolStore};
use anyhow::{Context as _, Result};

use crate::state::shown;

/// The definitions of one server's tools.
#[derive(Debug)]
pub struct Pinned(ToolStore);

impl Pinned {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Pinned> {
        let store = ToolStore::open(path);
        store
            .map(Pinned)
            .with_context(|| format!("cannot use {}", shown(path)))
    }
}

impl Pins for Pinned {
    fn get(&self, tool: &str) -> Result<Option<Pin>, PinError> {
        let known = self.0.get(tool).map_err(|e| PinError(e.to_string()))?;
        Ok(known.map(|tool| Pin {
            tool: tool.name,
            accepted: tool.accepted,
            since: tool.since,
            offered: tool.offered,
        }))
    }

    fn told(
        &self,
        tool: &str,
        definition: &str,
        on_trust: bool,
        now: u64,
    ) -> Result<Standing, PinError> {
        let known = self.0.told(tool, definition, on_trust, now, MAX_TOOLS);
        Ok(match known.map_err(|e| PinError(e.to_string()))? {
            Told::New if on_trust => Standing::New,
            Told::Known(tool) if tool.accepted == definition => Standing::Same,
            Told::New | Told::Known(_) => Standing::Changed,
            Told::Full => Standing::TooMany,
        })
    }
}
