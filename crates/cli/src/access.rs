//! Who reads the ledger stands in the ledger.
//!
//! A reading is recorded when it is over, or has handed out what was there and stays for more. The same reading (user,
//! command, options) is recorded once in ten minutes while no more than [`FAR`] entries came in between, so that
//! a loop does not fill the log with itself. A reader who cannot write the ledger is told that the reading is not
//! recorded: what is on read-only media can be read all the same.

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, time::Duration};

use agentwall_action::escape_bytes;
use agentwall_ledger::{
    Entry, Record,
    entry::{Access, User},
};
use anyhow::{Context as _, Result};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    output::{note, tame},
    session::minute_of,
    state::{State, now_ms, random_text},
};

/// For so long a reading is not recorded again.
const AGAIN: Duration = Duration::from_secs(600);
/// So many entries are looked at for it.
const FAR: u64 = 256;

/// Records that this process has handed out entries of the user's own ledger.
pub fn record(state: &State, command: &str, entries: u64, follows: bool) {
    let access = Access {
        user: User {
            uid: rustix::process::getuid().as_raw(),
            name: std::env::var("USER").unwrap_or_default(),
        },
        command: command.to_owned(),
        filter: given(command),
        entries,
        follows,
    };
    if let Err(e) = write(state, access) {
        note(&tame(&format!("this reading is not recorded: {e:#}")));
    }
}

/// The options of this process after the command's word, as they were given, escaped.
pub fn given(command: &str) -> Vec<String> {
    options(command, std::env::args_os())
}

/// The options after the command's word, as they were given.
fn options(command: &str, args: impl Iterator<Item = OsString>) -> Vec<String> {
    args.skip_while(|a| a != command)
        .skip(1)
        .map(|a| escape_bytes(a.as_bytes()))
        .collect()
}

fn write(state: &State, access: Access) -> Result<()> {
    let reader = state.reader().context("cannot read the ledger")?;
    let now = OffsetDateTime::now_utc();
    for index in (reader.size().saturating_sub(FAR)..reader.size()).rev() {
        let told = reader.told(index).context("cannot read the ledger")?;
        if is_again(&told.entry, &access, now) {
            return Ok(());
        }
    }
    // Each reading is a session of its own, of one entry.
    let id = format!("{}-{}", minute_of(now_ms()), random_text(4)?);
    let log = state.open_log()?;
    log.append(&Entry::now(&id, 0, Record::Access(access)).to_bytes())
        .context("cannot write the ledger")?;
    log.close().context("cannot write the ledger")
}

/// Whether the entry is a record of the same reading, made a moment ago.
fn is_again(entry: &Entry, access: &Access, now: OffsetDateTime) -> bool {
    let Record::Access(known) = &entry.record else {
        return false;
    };
    let same = (&known.user, &known.command, &known.filter, known.follows)
        == (
            &access.user,
            &access.command,
            &access.filter,
            access.follows,
        );
    let ago = OffsetDateTime::parse(&entry.time, &Rfc3339).map(|time| now - time);
    same && ago.is_ok_and(|ago| !ago.is_negative() && ago < AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_what_comes_after_the_command() {
        let args = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            options("show", words.into_iter())
        };
        assert_eq!(args("agentwall ledger show"), [""; 0]);
        assert_eq!(
            args("agentwall ledger show --path /a\nb"),
            ["--path", "/a\\nb"]
        );
    }

    #[test]
    fn only_the_same_reading_of_a_moment_ago_is_not_recorded_again() {
        let access = Access {
            command: "show".into(),
            entries: 3,
            ..Access::default()
        };
        let mut entry = Entry::now("s", 0, Record::Access(access.clone()));
        entry.time = "2026-01-02T03:00:00.000Z".into();
        let at = |time: &str| OffsetDateTime::parse(time, &Rfc3339).unwrap();
        let (soon, late) = (at("2026-01-02T03:09:59Z"), at("2026-01-02T03:10:00Z"));
        let more = Access {
            entries: 4,
            ..access.clone()
        };
        assert!(is_again(&entry, &more, soon));
        assert!(!is_again(&entry, &access, late));
        // The clock was put back: nothing is known about how long ago it was.
        assert!(!is_again(&entry, &access, at("2026-01-02T02:59:59Z")));
        for other in [
            Access {
                command: "export".into(),
                ..access.clone()
            },
            Access {
                filter: vec!["--all".into()],
                ..access.clone()
            },
            Access {
                follows: true,
                ..access.clone()
            },
            Access {
                user: User {
                    uid: 7,
                    ..User::default()
                },
                ..access.clone()
            },
        ] {
            assert!(!is_again(&entry, &other, soon), "{other:?}");
        }
    }
}
