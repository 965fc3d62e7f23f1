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
    /// The accepted definition; empty as long as there is none.
    pub accepted: String,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Another one that was told since.
    pub offered: Option<String>,
}

/// What was known of a tool when a definition was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing: it is kept now.
    New,
    /// This.
    Known(Tool),
    /// Nothing, and there are too many to keep one more.
    Full,
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

    /// A definition was told. The first one of a tool is accepted if it is taken on trust, unless `most` tools are known;
    /// another one is kept beside it; the accepted one takes the place of another one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn told(
        &self,
        name: &str,
        text: &str,
        on_trust: bool,
        now: u64,
        most: usize,
    ) -> Result<Told, StoreError> {
        let mut connection = self.lock();
        // Most of what is told is known, and needs no writer.
        let known = get(&connection, name)?;
        let offered = |tool: &Tool| (tool.accepted != text).then(|| text.to_owned());
        if let Some(tool) = known
            && tool.offered == offered(&tool)
        {
            return Ok(Told::Known(tool));
        }
        let change = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let told = match get(&change, name)? {
            None => {
                let count: i64 = change
                    .query_row("SELECT count(*) FROM tools", (), |row| row.get(0))
                    .map_err(failed)?;
                if count >= signed(most as u64)? {
                    return Ok(Told::Full);
                }
                let (accepted, offered) = match on_trust {
                    true => (text, None),
                    false => ("", Some(text)),
                };
                let put = "INSERT INTO tools VALUES (?1, ?2, ?3, ?4)";
                change
                    .execute(put, (name, accepted, signed(now)?, offered))
                    .map_err(failed)?;
                Told::New
            }
            Some(tool) => {
                let put = "UPDATE tools SET offered = ?2 WHERE name = ?1";
                change
                    .execute(put, (name, offered(&tool)))
                    .map_err(failed)?;
                Told::Known(tool)
            }
        };
        change.commit().map_err(failed)?;
        Ok(told)
    }

    /// Forgets a tool: its next definition is the first one again. Whether it was known.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn forget(&self, name: &str) -> Result<bool, StoreError> {
        let gone = "DELETE FROM tools WHERE name = ?1";
        let changed = self.lock().execute(gone, (name,)).map_err(failed)?;
        Ok(changed == 1)
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
        assert_eq!(store.told("a", "one", true, 1, 2).unwrap(), Told::New);
        let Told::Known(tool) = store.told("a", "two", true, 2, 2).unwrap() else {
            panic!("it is known");
        };
        assert_eq!(tool.offered, None);
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
        store.told("a", "one", true, 4, 2).unwrap();
        store.told("a", "two", true, 5, 2).unwrap();
        assert_eq!(store.get("a").unwrap().unwrap().offered, None);
    }

    #[test]
    fn there_is_a_most() {
        let dir = tempfile::tempdir().unwrap();
        let store = ToolStore::open(&dir.path().join("tools.db")).unwrap();
        store.told("a", "one", true, 1, 2).unwrap();
        store.told("b", "one", true, 1, 2).unwrap();
        assert_eq!(store.told("c", "one", true, 1, 2).unwrap(), Told::Full);
        store.told("a", "two", true, 1, 2).unwrap();
        assert_eq!(store.all().unwrap().len(), 2);
        // Until one is forgotten.
        assert!(store.forget("b").unwrap() && !store.forget("b").unwrap());
        assert_eq!(store.told("c", "one", true, 1, 2).unwrap(), Told::New);
    }

    #[test]
    fn what_is_not_taken_on_trust_waits_for_a_person() {
        let dir = tempfile::tempdir().unwrap();
        let store = ToolStore::open(&dir.path().join("tools.db")).unwrap();
        assert_eq!(store.told("a", "one", false, 1, 2).unwrap(), Told::New);
        let tool = store.get("a").unwrap().unwrap();
        let found = (tool.accepted.as_str(), tool.offered.as_deref());
        assert_eq!(found, ("", Some("one")));
        // Nor is another one then.
        store.told("a", "two", true, 1, 2).unwrap();
        assert!(store.get("a").unwrap().unwrap().offered.is_some());
        assert!(store.accept("a", "two", 3).unwrap());
        assert_eq!(store.get("a").unwrap().unwrap().offered, None);
    }

    #[test]
    fn two_processes_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.db");
        let (one, two) = (
            ToolStore::open(&path).unwrap(),
            ToolStore::open(&path).unwrap(),
        );
        one.told("a", "one", true, 1, 2).unwrap();
        two.told("a", "two", true, 1, 2).unwrap();
        assert_eq!(
            one.get("a").unwrap().unwrap().offered.as_deref(),
            Some("two")
        );
    }
}
