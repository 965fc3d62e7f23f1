//! `agentwall daemon status`: what stands, from the daemon, or without one from the pins and the book.

use std::process::ExitCode;

use agentwall_kernel::{Programs, Wall};
use anyhow::{Result, bail};

use super::{ask, refused};
use crate::{
    args::daemon::StatusArgs,
    control::{HostRequest, HostStatus, Response, ViewStatus},
    host::{
        Places,
        book::Book,
        kernel::Kernel as _,
        tell::{of_counters, of_session, release_of_kernel},
    },
    output::{self, FAILED, Style, paint, tame},
    state::{rfc3339_of, shown},
};

/// Runs the command.
pub fn main(args: StatusArgs) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("what the kernel holds is shown to root alone; run it as root");
    }
    let status = standing(&Places {
        pins: args.pins.clone(),
        ..Places::default()
    })?;
    let well = status.standing && status.daemon;
    if args.json {
        output::print_json(&status)?;
    } else {
        output::print(&in_words(&status))?;
    }
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

/// What stands: the daemon tells, or without one what is pinned.
pub fn standing(places: &Places) -> Result<HostStatus> {
    match ask(HostRequest::Status) {
        Ok(Response::Host(status)) => Ok(*status),
        Ok(other) => refused(other),
        Err(_) => Ok(without_daemon(places)),
    }
}

/// What the kernel and the book tell.
fn without_daemon(places: &Places) -> HostStatus {
    let mut status = HostStatus {
        kernel: release_of_kernel(),
        ..HostStatus::default()
    };
    let wall = match Wall::open(&places.pins) {
        Ok(Some(wall)) => wall,
        Ok(None) => {
            status.trouble.push(
                "no kernel wall stands; 'systemctl start agentwall' or 'agentwall daemon run' loads one"
                    .to_owned(),
            );
            return status;
        }
        Err(e) => {
            status
                .trouble
                .push(format!("what is pinned cannot be read: {e}"));
            return status;
        }
    };
    status.hooks = wall.hooks();
    status.standing = status.hooks > 0;
    let stays = match wall.kind() {
        Programs::Wall => "what is enforced stays so, but",
        Programs::Monitor => {
            "the monitor's events wait in the kernel as long as there is room, and"
        }
    };
    status.trouble.push(format!(
        "no daemon runs: {stays} nothing is recorded, asked or found; 'systemctl start agentwall' or \
         'agentwall daemon run' starts one"
    ));
    match wall.counters() {
        Ok(counters) => status.counters = of_counters(&counters),
        Err(e) => status
            .trouble
            .push(format!("the counters cannot be read: {e}")),
    }
    let tasks = wall.governed().unwrap_or_else(|e| {
        status
            .trouble
            .push(format!("the governed processes cannot be listed: {e}"));
        Vec::new()
    });
    let book = match Book::read(&places.book()) {
        Ok(Some(book)) => book,
        Ok(None) => {
            status
                .trouble
                .push("nothing tells what it enforces: the book is gone".to_owned());
            return status;
        }
        Err(e) => {
            status.trouble.push(format!("{e:#}"));
            return status;
        }
    };
    status.audit = book.audit;
    status.no_wall = book.no_wall;
    status.programs = book.programs;
    status.proved_ms = book.proved_ms;
    // The canaries were refused by just these programs, and they are still attached.
    let whole = status.standing && status.hooks == book.hooks;
    let refuses = wall.kind() == Programs::Wall && !book.audit;
    status.enforcing = whole && book.proved_ms.is_some() && refuses;
    if !whole {
        status.trouble.push(format!(
            "{} of {} hooks are attached: it was damaged; 'agentwall daemon run' mends it",
            status.hooks, book.hooks
        ));
    }
    status.names = status.enforcing && book.names;
    status.lost = book.lost;
    status.views = (book.views.iter())
        .map(|view| ViewStatus {
            view: view.view,
            subject: format!("agent:{}", view.name),
            policy: shown(&view.policy),
            digest: view.digest.clone(),
            generation: view.generation,
            audit: view.audit || book.audit,
            processes: tasks.iter().filter(|t| t.view == view.view).count(),
            lacks: Vec::new(),
        })
        .collect();
    status.sessions = book
        .sessions
        .iter()
        .map(|s| of_session(s, &tasks))
        .collect();
    status
}

fn in_words(status: &HostStatus) -> String {
    let monitor = status.no_wall.is_some();
    let (style, word) = match (status.standing, status.enforcing, status.audit) {
        (false, ..) => (Style::Red, "NOT STANDING"),
        (true, true, _) if !monitor => (Style::Green, "enforcing"),
        (true, false, true) => (Style::Yellow, "audit only: nothing is refused"),
        (true, ..) => (Style::Red, "standing, NOT PROVED"),
    };
    let what = if monitor { "monitor" } else { "kernel wall" };
    let mut rows = vec![
        vec![what.to_owned(), paint(style, word)],
        vec![
            "daemon".to_owned(),
            match status.daemon {
                true => "alive".to_owned(),
                false => paint(Style::Red, "not running"),
            },
        ],
        vec!["kernel".to_owned(), tame(&status.kernel)],
    ];
    if status.standing {
        let short = status.programs.get(..12).unwrap_or("unknown");
        rows.push(vec![
            "programs".to_owned(),
            format!("{} hooks, {short}", status.hooks),
        ]);
    }
    if let Some(why) = &status.no_wall {
        rows.insert(
            1,
            vec!["kernel wall".to_owned(), format!("none: {}", tame(why))],
        );
    }
    if let Some(ms) = status.proved_ms {
        let how = if monitor { "seen" } else { "refused" };
        rows.push(vec![
            "canaries".to_owned(),
            format!("{how} {}", rfc3339_of(ms)),
        ]);
    }
    if status.standing {
        let told = match (status.names, status.daemon) {
            (true, true) => "decided",
            (true, false) => "refused until a daemon runs",
            (false, _) => "not decided: rules about them permit nothing",
        };
        rows.push(vec!["host names".to_owned(), told.to_owned()]);
    }
    let counters: Vec<String> = (status.counters.iter())
        .filter(|(_, n)| **n > 0)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    if !counters.is_empty() {
        rows.push(vec!["counted".to_owned(), counters.join(", ")]);
    }
    if status.lost > 0 {
        let lost = format!("{} events did not reach the ledger (gap)", status.lost);
        rows.push(vec!["lost".to_owned(), paint(Style::Red, &lost)]);
    }
    if status.pending > 0 {
        let waiting = format!("{}; 'agentwall pending' shows them", status.pending);
        rows.push(vec!["questions".to_owned(), paint(Style::Yellow, &waiting)]);
    }
    let mut text = output::table(&rows);
    for view in &status.views {
        let mode = if view.audit { ", audit" } else { "" };
        text.push_str(&format!(
            "\nview {} {} ({}{mode})\n  policy {}, generation {}\n",
            view.view,
            tame(&view.subject),
            match view.processes {
                1 => "1 process".to_owned(),
                n => format!("{n} processes"),
            },
            tame(&format!("{} {}", view.policy, view.digest)),
            view.generation,
        ));
        for lack in &view.lacks {
            text.push_str(&format!("  {}\n", tame(lack)));
        }
        for session in status.sessions.iter().filter(|s| s.view == view.view) {
            text.push_str(&format!(
                "  session {}: {} from process {}, {} now\n",
                tame(&session.id),
                tame(&session.exe),
                session.pid,
                session.processes.len()
            ));
        }
    }
    for trouble in &status.trouble {
        let lines: Vec<String> = trouble.lines().map(tame).collect();
        text.push_str(&format!("\n→ {}\n", lines.join("\n  ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_that_is_not_there_is_never_told() {
        let tmp = tempfile::tempdir().unwrap();
        let places = Places {
            pins: tmp.path().join("pins"),
            run: tmp.path().to_owned(),
            ..Places::default()
        };
        // A book alone, as one that outlived its wall.
        let book = Book {
            proved_ms: Some(1),
            hooks: 60,
            ..Book::default()
        };
        book.write(&places.book()).unwrap();
        let status = without_daemon(&places);
        assert!(!status.standing && !status.enforcing && !status.daemon);
        let text = in_words(&status);
        assert!(
            text.contains("NOT STANDING") && text.contains("daemon run"),
            "{text}"
        );
        assert!(!text.contains("enforcing"), "{text}");
        for (enforcing, audit, word) in [
            (true, false, "enforcing"),
            (false, true, "audit only"),
            (false, false, "NOT PROVED"),
        ] {
            let status = HostStatus {
                standing: true,
                enforcing,
                audit,
                ..HostStatus::default()
            };
            assert!(in_words(&status).contains(word));
        }
        // A monitor never enforces, whatever else is said of it.
        for (enforcing, audit) in [(false, true), (true, false), (true, true)] {
            let status = HostStatus {
                standing: true,
                enforcing,
                audit,
                no_wall: Some("no hooks".into()),
                ..HostStatus::default()
            };
            let text = in_words(&status);
            assert!(!text.contains("enforcing") && text.contains("none: no hooks"));
        }
    }

    #[test]
    fn what_a_policy_or_process_is_called_acts_on_no_terminal() {
        let status = HostStatus {
            standing: true,
            views: vec![ViewStatus {
                view: 1,
                subject: "agent:\x1b[2J".into(),
                lacks: vec!["a\nb\x07".into()],
                ..ViewStatus::default()
            }],
            trouble: vec!["one\ntwo\u{202e}".into()],
            ..HostStatus::default()
        };
        let text = in_words(&status);
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.chars().any(bad), "{text:?}");
    }
}
