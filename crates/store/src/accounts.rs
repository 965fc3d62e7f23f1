//! Who may use the console: people with passkeys, invitations that make them, tokens of programs.
//!
//! Secrets (invitations, tokens) are kept as SHA-256 alone: they are random and long, so nothing slower is needed. What a
//! role or a passkey is, is the business of the console: here they are text.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard},
};

use rusqlite::{Connection, OptionalExtension as _};

use super::{StoreError, failed, open};

const VERSION: i64 = 1;

const TABLES: &str = "
    CREATE TABLE accounts (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
                           created INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE keys (id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
                       record TEXT NOT NULL, created INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE invitations (hash BLOB PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL,
                              expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE tokens (name TEXT PRIMARY KEY, role TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
                         created INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
";

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Random, a UUID: what a passkey names its user by.
    pub id: String,
    /// What the ledger calls the person.
    pub name: String,
    /// What they may do.
    pub role: String,
}

/// A passkey of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The credential's id.
    pub id: String,
    /// The account's id.
    pub account: String,
    /// Public key, counter and the rest, as the console writes it.
    pub record: String,
}

/// Lets one person in, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// What the person will be called.
    pub name: String,
    /// What they will be able to do.
    pub role: String,
}

/// What a program may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What the ledger calls the program.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// In milliseconds since the Unix epoch.
    pub created: i64,
}

/// The accounts of the console, in a SQLite file. Times are milliseconds since the Unix epoch.
#[derive(Debug)]
pub struct Accounts {
    connection: Mutex<Connection>,
}

impl Accounts {
    /// Opens the file, or makes it. Its folder must be there. A link is not followed.
    pub fn open(path: &Path) -> Result<Accounts, StoreError> {
        let connection = open(path, TABLES, VERSION)?;
        (connection.pragma_update(None, "foreign_keys", "on")).map_err(failed)?;
        Ok(Accounts {
            connection: Mutex::new(connection),
        })
    }

    /// Keeps an invitation, by the SHA-256 of its code. Those that are over are forgotten.
    pub fn invite(
        &self,
        hash: &[u8; 32],
        to: &Invitation,
        expires: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let change = connection.transaction().map_err(failed)?;
        change
            .execute("DELETE FROM invitations WHERE expires <= ?1", (now,))
            .and_then(|_| {
                change.execute(
                    "INSERT INTO invitations VALUES (?1, ?2, ?3, ?4)",
                    (hash, &to.name, &to.role, expires),
                )
            })
            .map_err(failed)?;
        change.commit().map_err(failed)
    }

    /// The invitation of a code, if it still holds.
    pub fn invitation(&self, hash: &[u8; 32], now: i64) -> Result<Option<Invitation>, StoreError> {
        let query = "SELECT name, role FROM invitations WHERE hash = ?1 AND expires > ?2";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Invitation {
                name: row.get(0)?,
                role: row.get(1)?,
            })
        };
        (self.lock().query_row(query, (hash, now), read).optional()).map_err(failed)
    }

    /// Uses an invitation up: the person has a passkey now. A person of that name gets the role, and the passkey as one
    /// more. `None` when the invitation does not hold any more.
    pub fn accept(
        &self,
        hash: &[u8; 32],
        id: &str,
        key: (&str, &str),
        now: i64,
    ) -> Result<Option<Account>, StoreError> {
        let mut connection = self.lock();
        let change = connection.transaction().map_err(failed)?;
        let taken: Option<(String, String)> = change
            .query_row(
                "DELETE FROM invitations WHERE hash = ?1 AND expires > ?2 RETURNING name, role",
                (hash, now),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(failed)?;
        let Some((name, role)) = taken else {
            return Ok(None);
        };
        let put = "INSERT INTO accounts VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET role = ?3 RETURNING id";
        let id: String = change
            .query_row(put, (id, &name, &role, now), |row| row.get(0))
            .map_err(failed)?;
        change
            .execute(
                "INSERT INTO keys VALUES (?1, ?2, ?3, ?4)",
                (key.0, &id, key.1, now),
            )
            .map_err(failed)?;
        change.commit().map_err(failed)?;
        Ok(Some(Account { id, name, role }))
    }

    /// A person, by id.
    pub fn account(&self, id: &str) -> Result<Option<Account>, StoreError> {
        let query = "SELECT id, name, role FROM accounts WHERE id = ?1";
        (self.lock().query_row(query, (id,), account).optional()).map_err(failed)
    }

    /// A person's id, by name.
    pub fn named(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let query = "SELECT id, name, role FROM accounts WHERE name = ?1";
        (self.lock().query_row(query, (name,), account).optional()).map_err(failed)
    }

    /// All people, by name.
    pub fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let connection = self.lock();
        let query = "SELECT id, name, role FROM accounts ORDER BY name";
        let mut rows = connection.prepare_cached(query).map_err(failed)?;
        let found = rows.query_map((), account).map_err(failed)?;
        found.collect::<Result<_, _>>().map_err(failed)
    }

    /// Takes a person's account, passkeys and invitations away. Whether there was an account or an invitation.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        let mut connection = self.lock();
        let change = connection.transaction().map_err(failed)?;
        let mut gone = 0;
        for delete in [
            "DELETE FROM invitations WHERE name = ?1",
            "DELETE FROM accounts WHERE name = ?1",
        ] {
            gone += change.execute(delete, (name,)).map_err(failed)?;
        }
        change.commit().map_err(failed)?;
        Ok(gone > 0)
    }

    /// The passkeys of a person, or of everybody.
    pub fn keys(&self, account: Option<&str>) -> Result<Vec<Key>, StoreError> {
        let connection = self.lock();
        let query = "SELECT id, account, record FROM keys WHERE ?1 IS NULL OR account = ?1 ORDER BY created, id";
        let mut rows = connection.prepare_cached(query).map_err(failed)?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Key {
                id: row.get(0)?,
                account: row.get(1)?,
                record: row.get(2)?,
            })
        };
        let found = rows.query_map((account,), read).map_err(failed)?;
        found.collect::<Result<_, _>>().map_err(failed)
    }

    /// A passkey was used: its counter is another.
    pub fn update_key(&self, id: &str, record: &str) -> Result<(), StoreError> {
        let put = "UPDATE keys SET record = ?2 WHERE id = ?1";
        self.lock()
            .execute(put, (id, record))
            .map(drop)
            .map_err(failed)
    }

    /// Keeps a token by its SHA-256. Whether the name was free.
    pub fn add_token(&self, token: &Token, hash: &[u8; 32]) -> Result<bool, StoreError> {
        let put = "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let row = (&token.name, &token.role, hash, token.created);
        let made = self.lock().execute(put, row).map_err(failed)?;
        Ok(made > 0)
    }

    /// The token of this SHA-256.
    pub fn token(&self, hash: &[u8; 32]) -> Result<Option<Token>, StoreError> {
        let query = "SELECT name, role, created FROM tokens WHERE hash = ?1";
        (self.lock().query_row(query, (hash,), token).optional()).map_err(failed)
    }

    /// All tokens, by name.
    pub fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let connection = self.lock();
        let query = "SELECT name, role, created FROM tokens ORDER BY name";
        let mut rows = connection.prepare_cached(query).map_err(failed)?;
        let found = rows.query_map((), token).map_err(failed)?;
        found.collect::<Result<_, _>>().map_err(failed)
    }

    /// Takes a token back. Whether there was one.
    pub fn revoke_token(&self, name: &str) -> Result<bool, StoreError> {
        let gone = self
            .lock()
            .execute("DELETE FROM tokens WHERE name = ?1", (name,))
            .map_err(failed)?;
        Ok(gone > 0)
    }

    /// Each change is one transaction, which a panic has rolled back.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn account(row: &rusqlite::Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        id: row.get(0)?,
        name: row.get(1)?,
        role: row.get(2)?,
    })
}

fn token(row: &rusqlite::Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        name: row.get(0)?,
        role: row.get(1)?,
        created: row.get(2)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Accounts) {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&dir.path().join("console.db")).unwrap();
        (dir, accounts)
    }

    #[test]
    fn an_invitation_lets_one_in_once_and_in_time() {
        let (_dir, accounts) = store();
        let to = Invitation {
            name: "ada".into(),
            role: "admin".into(),
        };
        accounts.invite(&[1; 32], &to, 100, 0).unwrap();
        assert_eq!(accounts.invitation(&[1; 32], 99).unwrap(), Some(to.clone()));
        assert_eq!(accounts.invitation(&[1; 32], 100).unwrap(), None);
        assert_eq!(accounts.invitation(&[2; 32], 0).unwrap(), None);
        assert!(
            accounts
                .accept(&[1; 32], "u1", ("k1", "{}"), 100)
                .unwrap()
                .is_none()
        );
        let ada = accounts
            .accept(&[1; 32], "u1", ("k1", "{}"), 99)
            .unwrap()
            .unwrap();
        assert_eq!((ada.id.as_str(), ada.role.as_str()), ("u1", "admin"));
        assert!(
            accounts
                .accept(&[1; 32], "u2", ("k2", "{}"), 99)
                .unwrap()
                .is_none()
        );
        assert_eq!(accounts.keys(None).unwrap().len(), 1);
        // A second passkey is one of the same person.
        accounts.invite(&[3; 32], &to, 100, 0).unwrap();
        let again = accounts
            .accept(&[3; 32], "u3", ("k3", "{}"), 1)
            .unwrap()
            .unwrap();
        assert_eq!(again.id, "u1");
        assert_eq!(accounts.keys(Some("u1")).unwrap().len(), 2);
        assert!(accounts.remove("ada").unwrap() && !accounts.remove("ada").unwrap());
        assert!(
            accounts.keys(None).unwrap().is_empty(),
            "its passkeys went with it"
        );
    }

    #[test]
    fn who_is_removed_has_no_invitation_left() {
        let (_dir, accounts) = store();
        let to = |name: &str| Invitation {
            name: name.into(),
            role: "admin".into(),
        };
        for (hash, name) in [([1; 32], "ada"), ([2; 32], "ada"), ([3; 32], "bob")] {
            accounts.invite(&hash, &to(name), 100, 0).unwrap();
        }
        let accept = |hash: [u8; 32], id| accounts.accept(&hash, id, (id, "{}"), 1).unwrap();
        assert!(accept([1; 32], "u1").is_some());
        assert!(accounts.remove("ada").unwrap());
        // Whoever began with it before finds none at the end.
        assert!(accept([2; 32], "u2").is_none());
        assert!(accounts.accounts().unwrap().is_empty());
        assert!(accept([3; 32], "u3").is_some(), "others keep theirs");
        // One who never came is removed as well.
        accounts.invite(&[4; 32], &to("eve"), 100, 0).unwrap();
        assert!(accounts.remove("eve").unwrap() && !accounts.remove("eve").unwrap());
        assert!(accept([4; 32], "u4").is_none());
    }

    #[test]
    fn a_token_is_found_by_its_hash_until_it_is_revoked() {
        let (_dir, accounts) = store();
        let token = Token {
            name: "ci".into(),
            role: "auditor".into(),
            created: 7,
        };
        assert!(accounts.add_token(&token, &[1; 32]).unwrap());
        assert!(!accounts.add_token(&token, &[2; 32]).unwrap());
        assert_eq!(accounts.token(&[1; 32]).unwrap(), Some(token));
        assert_eq!(accounts.token(&[2; 32]).unwrap(), None);
        assert!(accounts.revoke_token("ci").unwrap());
        assert_eq!(accounts.token(&[1; 32]).unwrap(), None);
        assert!(accounts.tokens().unwrap().is_empty());
    }
}
