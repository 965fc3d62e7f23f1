//! Definitions of tools, kept in the gateway's folder.

use std::path::Path;

use agentwall_gateway::mcp::definitions::{MAX_TOOLS, Pin, PinError, Pins, Standing};
use agentwall_store::ToolStore;
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

    fn told(&self, tool: &str, definition: &str, now: u64) -> Result<Standing, PinError> {
        let known = self.0.told(tool, definition, now, MAX_TOOLS);
        Ok(match known.map_err(|e| PinError(e.to_string()))? {
            None => Standing::New,
            Some(tool) if tool.accepted == definition => Standing::Same,
            Some(_) => Standing::Changed,
        })
    }
}
