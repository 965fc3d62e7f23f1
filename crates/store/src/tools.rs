//! Definitions of the tools of one server: for each the accepted one, and another one that the server told since.

use std::{path::Path, sync::Mutex};

use agentwall_identity::StoreError;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior};

use crate::{failed, open, signed};

/// The version of the tables.
const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE tools (name TEXT PRIMARY KEY, accepted TEXT NOT NULL, since INTEGER NOT NULL,
                        offered TEXT) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// Definitions in a SQLite file, which several processes may share.
#[derive(Debug)]
pub struct ToolStore {
    connection: Mutex<Connection>,
}

/// What is known of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The accepted definition.
    pub accepted: String,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Another one that was told since.
    pub offered: Option<String>,
}

impl ToolStore {
    /// Opens the file, or makes it. Its folder must be there. A link is not followed.
    ///
    /// # Errors
    /// It cannot be opened, is damaged, or of a later version.
    pub fn open(path: &Path) -> Result<ToolStore, StoreError> {
        Ok(ToolStore {
            connection: Mutex::new(open(path, TABLES, VERSION)?),
        })
    }

    /// What is known of one tool.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<Tool>, StoreError> {
        get(&self.lock(), name)
    }

    /// All tools, by name.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn all(&self) -> Result<Vec<Tool>, StoreError> {
        let connection = self.lock();
        let all = "SELECT name, accepted, since, offered FROM tools ORDER BY name";
        let mut rows = connection.prepare_cached(all).map_err(failed)?;
        let found = rows.query_map((), of_row).map_err(failed)?;
        found.map(|tool| tool.map_err(failed)).collect()
    }

    /// A definition was told. The first one of a tool is accepted, unless `most` tools are known; another one is kept beside
    /// it; the accepted one takes the place of another one. Gives what was known before.
    ///
    /// # Errors
    /// It cannot be written, or too many are known.
    pub fn told(
        &self,
        name: &str,
        text: &str,
        now: u64,
        most: usize,
    ) -> Result<Option<Tool>, StoreError> {
        let mut connection = self.lock();
        // Most of what is told is known, and needs no writer.
        let known = get(&connection, name)?;
        let offered = |tool: &Tool| (tool.accepted != text).then(|| text.to_owned());
        if let Some(tool) = &known
            && tool.offered == offered(tool)
        {
            return Ok(known);
        }
        let change = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let known = get(&change, name)?;
        match &known {
            None => {
                let count: i64 = change
                    .query_row("SELECT count(*) FROM tools", (), |row| row.get(0))
                    .map_err(failed)?;
                if count >= signed(most as u64)? {
                    return Err(StoreError::Failed(format!(
                        "{most} tools are known already"
                    )));
                }
                let put = "INSERT INTO tools VALUES (?1, ?2, ?3, NULL)";
                change
                    .execute(put, (name, text, signed(now)?))
                    .map_err(failed)?;
            }
            Some(tool) => {
                let put = "UPDATE tools SET offered = ?2 WHERE name = ?1";
                change.execute(put, (name, offered(tool))).map_err(failed)?;
            }
        }
        change.commit().map_err(failed)?;
        Ok(known)
    }

    /// Accepts the other definition of a tool, if it is `text` still; whether it was.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn accept(&self, name: &str, text: &str, now: u64) -> Result<bool, StoreError> {
        let put = "UPDATE tools SET accepted = offered, since = ?3, offered = NULL WHERE name = ?1 AND offered = ?2";
        let changed = self
            .lock()
            .execute(put, (name, text, signed(now)?))
            .map_err(failed)?;
        Ok(changed == 1)
    }

    /// A transaction that was cut off by a panic was undone when it was dropped.
    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn get(connection: &Connection, name: &str) -> Result<Option<Tool>, StoreError> {
    let one = "SELECT name, accepted, since, offered FROM tools WHERE name = ?1";
    let mut rows = connection.prepare_cached(one).map_err(failed)?;
    rows.query_row((name,), of_row).optional().map_err(failed)
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Tool> {
    let since: i64 = row.get(2)?;
    Ok(Tool {
        name: row.get(0)?,
        accepted: row.get(1)?,
        since: since.unsigned_abs(),
        offered: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_definition_holds_until_a_person_accepts_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.db");
        let store = ToolStore::open(&path).unwrap();
        assert_eq!(store.told("a", "one", 1, 2).unwrap(), None);
        assert_eq!(store.told("a", "two", 2, 2).unwrap().unwrap().offered, None);
        drop(store);
        let store = ToolStore::open(&path).unwrap();
        let tool = store.get("a").unwrap().unwrap();
        assert_eq!(
            (tool.accepted.as_str(), tool.offered.as_deref()),
            ("one", Some("two"))
        );
        // What is accepted is what was looked at.
        assert!(!store.accept("a", "three", 3).unwrap());
        assert!(store.accept("a", "two", 3).unwrap());
        let tool = store.get("a").unwrap().unwrap();
        assert_eq!(
            (tool.accepted.as_str(), tool.since, tool.offered),
            ("two", 3, None)
        );
        store.told("a", "one", 4, 2).unwrap();
        store.told("a", "two", 5, 2).unwrap();
        assert_eq!(store.get("a").unwrap().unwrap().offered, None);
    }

    #[test]
    fn there_is_a_most() {
        let dir = tempfile::tempdir().unwrap();
        let store = ToolStore::open(&dir.path().join("tools.db")).unwrap();
        store.told("a", "one", 1, 2).unwrap();
        store.told("b", "one", 1, 2).unwrap();
        assert!(store.told("c", "one", 1, 2).is_err());
        store.told("a", "two", 1, 2).unwrap();
        assert_eq!(store.all().unwrap().len(), 2);
    }

    #[test]
    fn two_processes_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.db");
        let (one, two) = (
            ToolStore::open(&path).unwrap(),
            ToolStore::open(&path).unwrap(),
        );
        one.told("a", "one", 1, 2).unwrap();
        two.told("a", "two", 1, 2).unwrap();
        assert_eq!(
            one.get("a").unwrap().unwrap().offered.as_deref(),
            Some("two")
        );
    }
}
