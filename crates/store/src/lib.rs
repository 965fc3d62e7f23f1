//! Durable state: of one instance in SQLite, of several in PostgreSQL ([`PostgresStore`]).
//!
//! SQLite: one file for identities ([`SqliteStore`]) and one for the accounts of the console ([`Accounts`]), each with its
//! `-wal` and `-shm`, mode 0600. Records are kept whole, as JSON, by id: what they mean is the business of their crates,
//! and a new field needs no migration. A change is one transaction that is on the disk when it returns
//! (`synchronous` is `FULL`, with a write-ahead log). A file of a later version, or one that is damaged, is refused.

#![forbid(unsafe_code)]

mod accounts;
mod postgres;
mod tools;

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

pub use agentwall_identity::StoreError;
use agentwall_identity::{Agent, AgentId, Change, Contents, Event, Host, Store};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use serde::{Serialize, de::DeserializeOwned};

pub use accounts::{Account, Accounts, Invitation, Key, Token};
pub use postgres::PostgresStore;
pub use tools::{Told, Tool, ToolStore};

/// The version of the tables, `user_version` of the file.
const VERSION: i64 = 1;
/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE hosts (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE agents (id TEXT PRIMARY KEY, host TEXT NOT NULL, record TEXT NOT NULL,
                         used_at INTEGER) STRICT, WITHOUT ROWID;
    CREATE TABLE events (number INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
    PRAGMA user_version = 1;
";

/// Hosts, agents and events in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the file, or makes it. Its folder must be there. A link is not followed.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(SqliteStore {
            connection: Mutex::new(open(path, TABLES, VERSION)?),
        })
    }

    /// The events from a number on, at most `limit`, in order.
    pub fn events(&self, from: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let connection = self.lock()?;
        let mut rows = connection
            .prepare_cached("SELECT record FROM events WHERE number >= ?1 ORDER BY number LIMIT ?2")
            .map_err(failed)?;
        let found = rows
            .query_map((signed(from)?, signed(limit as u64)?), |row| {
                row.get::<_, String>(0)
            })
            .map_err(failed)?;
        found.map(|text| read(&text.map_err(failed)?)).collect()
    }

    /// A writer that panicked left a transaction that ends with the connection: nothing goes on after it.
    fn lock(&self) -> Result<MutexGuard<'_, Connection>, StoreError> {
        self.connection
            .lock()
            .map_err(|_| StoreError::Failed("an earlier change was cut off; restart".to_owned()))
    }
}

/// Opens a file, or makes it with these tables. A link is not followed.
fn open(path: &Path, tables: &str, known: i64) -> Result<Connection, StoreError> {
    // Made here, so that nobody else can read it for a moment.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(StoreError::Failed(format!("{}: {e}", path.display()))),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    prepare(&connection, tables, known)?;
    Ok(connection)
}

fn prepare(connection: &Connection, tables: &str, known: i64) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY).map_err(failed)?;
    for (name, value) in [
        ("journal_mode", "wal"),
        ("synchronous", "full"),
        ("trusted_schema", "off"),
    ] {
        connection
            .pragma_update(None, name, value)
            .map_err(failed)?;
    }
    let check: String = connection
        .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
        .map_err(failed)?;
    if check != "ok" {
        return Err(StoreError::Failed(format!("the file is damaged: {check}")));
    }
    let version =
        |c: &Connection| c.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0));
    // Two that open a new file at once: the second one finds the tables.
    let change = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
        .map_err(failed)?;
    match version(&change).map_err(failed)? {
        0 => change.execute_batch(tables).map_err(failed)?,
        version if version == known => {}
        other => {
            return Err(StoreError::Failed(format!(
                "the file is of version {other}, and this program knows {known}"
            )));
        }
    }
    change.commit().map_err(failed)
}

impl Store for SqliteStore {
    fn load(&self) -> Result<Contents, StoreError> {
        let mut connection = self.lock()?;
        // One transaction, so that all is of one moment.
        let change = connection.transaction().map_err(failed)?;
        let hosts: Vec<Host> = {
            let mut rows = change.prepare("SELECT record FROM hosts").map_err(failed)?;
            let found = rows
                .query_map((), |row| row.get::<_, String>(0))
                .map_err(failed)?;
            found
                .map(|text| read(&text.map_err(failed)?))
                .collect::<Result<_, _>>()?
        };
        let agents: Vec<Agent> = {
            let mut rows = change
                .prepare("SELECT record, used_at FROM agents")
                .map_err(failed)?;
            let found = rows
                .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
                .map_err(failed)?;
            found
                .map(|row| {
                    let (text, used_at): (String, Option<i64>) = row.map_err(failed)?;
                    let mut agent: Agent = read(&text)?;
                    agent.used_at = agent.used_at.max(used_at);
                    Ok(agent)
                })
                .collect::<Result<_, StoreError>>()?
        };
        let last_event = last_event(&change)?;
        Ok(Contents {
            hosts,
            agents,
            last_event,
        })
    }

    fn since(&self, after: u64) -> Result<Change, StoreError> {
        let mut connection = self.lock()?;
        let change = connection.transaction().map_err(failed)?;
        let events: Vec<Event> = {
            let mut rows = change
                .prepare_cached("SELECT record FROM events WHERE number > ?1 ORDER BY number")
                .map_err(failed)?;
            let found = rows
                .query_map((signed(after)?,), |row| row.get::<_, String>(0))
                .map_err(failed)?;
            found
                .map(|text| read(&text.map_err(failed)?))
                .collect::<Result<_, _>>()?
        };
        let (hosts, agents) = Change::named(&events);
        let one = |table: &str, id: &str| {
            let text = format!("SELECT record FROM {table} WHERE id = ?1");
            change.query_row(&text, (id,), |row| row.get::<_, String>(0))
        };
        Ok(Change {
            hosts: hosts
                .iter()
                .map(|id| read(&one("hosts", id.as_str()).map_err(failed)?))
                .collect::<Result<_, _>>()?,
            agents: agents
                .iter()
                .map(|id| read(&one("agents", id.as_str()).map_err(failed)?))
                .collect::<Result<_, _>>()?,
            events,
        })
    }

    /// The file has one writer: its gateway.
    fn wait(&self, patience: Duration) -> Result<(), StoreError> {
        std::thread::sleep(patience);
        Ok(())
    }

    fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut connection = self.lock()?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let next = last_event(&transaction)? + 1;
        if let Some(first) = change.events.first()
            && first.number != next
        {
            return Err(StoreError::Conflict {
                expected: first.number,
                found: next,
            });
        }
        {
            let put = "INSERT INTO hosts VALUES (?1, ?2) ON CONFLICT DO UPDATE SET record = ?2";
            let mut put = transaction.prepare_cached(put).map_err(failed)?;
            for host in &change.hosts {
                put.execute((host.id.as_str(), write(host)?))
                    .map_err(failed)?;
            }
            let put = "INSERT INTO agents VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE \
                       SET record = ?3, used_at = max(coalesce(used_at, ?4), ?4)";
            let mut put = transaction.prepare_cached(put).map_err(failed)?;
            for agent in &change.agents {
                let row = (
                    agent.id.as_str(),
                    agent.host.as_str(),
                    write(agent)?,
                    agent.used_at,
                );
                put.execute(row).map_err(failed)?;
            }
            let put = "INSERT INTO events VALUES (?1, ?2)";
            let mut put = transaction.prepare_cached(put).map_err(failed)?;
            for event in &change.events {
                put.execute((signed(event.number)?, write(event)?))
                    .map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    fn note_use(&self, used: &[(AgentId, i64)]) -> Result<(), StoreError> {
        let mut connection = self.lock()?;
        let transaction = connection.transaction().map_err(failed)?;
        {
            let put = "UPDATE agents SET used_at = max(coalesce(used_at, ?2), ?2) WHERE id = ?1";
            let mut put = transaction.prepare_cached(put).map_err(failed)?;
            for (id, at) in used {
                put.execute((id.as_str(), at)).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn last_event(connection: &Connection) -> Result<u64, StoreError> {
    let last: Option<i64> = connection
        .query_row("SELECT max(number) FROM events", (), |row| row.get(0))
        .map_err(failed)?;
    u64::try_from(last.unwrap_or(0)).map_err(|_| StoreError::Failed("an event below 0".to_owned()))
}

fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Failed("there are too many events".to_owned()))
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Failed(format!("a record is damaged: {e}")))
}

fn write<T: Serialize>(record: &T) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|e| StoreError::Failed(e.to_string()))
}

fn failed(e: rusqlite::Error) -> StoreError {
    StoreError::Failed(e.to_string())
}
