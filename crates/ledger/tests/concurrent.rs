//! Several processes with several threads append to one log, some of them are killed: the log
//! verifies, what was acknowledged is in it, and each writer's entries are in its order.

mod common;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use agentwall_ledger::{
    Log, LogOptions, Reader, TextFolders, VerifyOptions,
    entry::{Entry, Gap, Record},
    verify,
};
use common::signer;
use proptest::prelude::*;

const DIR: &str = "LEDGER_TEST_WRITER";
const THREADS: u64 = 3;

/// Some processes publish at once, others by way of the journal: they share the log all the same.
fn open(root: &Path) -> Log {
    let options = LogOptions {
        head: Some(root.join("head")),
        lag: Duration::from_millis(u64::from(std::process::id() % 3) * 10),
        text: Some(text(root)),
        key: None,
    };
    Log::open_with(&root.join("ledger"), signer(1), options).expect("opened")
}

fn text(root: &Path) -> TextFolders {
    TextFolders {
        values: root.join("values"),
        subjects: root.join("subjects"),
    }
}

fn entry(writer: &str, seq: u64) -> Vec<u8> {
    let gap = Gap {
        reason: format!("{writer} {seq}"),
        ..Gap::default()
    };
    Entry::now(writer, seq, Record::Gap(gap)).to_bytes()
}

/// The other processes: this test again, with a folder in the environment.
#[test]
fn writer_process() {
    let Ok(root) = env::var(DIR) else {
        // The parent test is the one that checks something.
        return;
    };
    let log = open(Path::new(&root));
    let pid = std::process::id();
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let log = &log;
            s.spawn(move || {
                let writer = format!("{pid}-{thread}");
                let mut seq = 0;
                for round in 0..12 {
                    let count = (round * 7 + thread * 3 + u64::from(pid)) % 40 + 1;
                    let entries: Vec<_> = (seq..seq + count).map(|i| entry(&writer, i)).collect();
                    match round % 3 {
                        0 => entries.iter().for_each(|e| {
                            log.append_later(e).expect("queued");
                        }),
                        1 => {
                            let all: Vec<_> = entries.iter().map(Vec::as_slice).collect();
                            log.append_batch(&all).expect("appended");
                        }
                        _ => entries.iter().take(5).for_each(|e| {
                            log.append(e).expect("appended");
                        }),
                    }
                    seq += if round % 3 == 2 { count.min(5) } else { count };
                    if round % 3 == 1 {
                        // The batch came after what was queued, so that is in the log too.
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "ACK {writer} {seq}").expect("written");
                    }
                }
                log.flush().expect("flushed");
                let mut out = std::io::stdout().lock();
                writeln!(out, "ACK {writer} {seq}").expect("written");
            });
        }
    });
    log.close().expect("closed");
}

fn start(root: &Path) -> Child {
    Command::new(env::current_exe().expect("this test"))
        .args(["--exact", "writer_process", "--nocapture"])
        .env(DIR, root)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("started")
}

#[test]
fn processes_and_threads_and_kills() {
    let root = tempfile::tempdir().expect("a folder");
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let children: Vec<Child> = (0..5).map(|_| start(root.path())).collect();
    let readers: Vec<_> = children
        .into_iter()
        .zip(0u64..)
        .map(|(mut child, i)| {
            std::thread::spawn(move || {
                let out = child.stdout.take().expect("piped");
                if i < 2 {
                    std::thread::sleep(Duration::from_millis(60 + 90 * i));
                    // It may be over already; then there is nothing to kill.
                    let _ = child.kill();
                }
                let lines: Vec<String> =
                    BufReader::new(out).lines().map_while(Result::ok).collect();
                let status = child.wait().expect("ended");
                assert!(i < 2 || status.success(), "{lines:?}");
                lines
            })
        })
        .collect();
    for reader in readers {
        for line in reader.join().expect("no panic") {
            // The test harness prints its own text before the first of our lines.
            let Some(at) = line.find("ACK ") else {
                continue;
            };
            if let [_, writer, seq] = line[at..].split(' ').collect::<Vec<_>>()[..] {
                let seq = seq.parse().expect("a number");
                acknowledged.insert(writer.to_owned(), seq);
            }
        }
    }
    assert!(acknowledged.len() >= 3 * THREADS as usize);
    // Whoever comes next tidies up.
    drop(open(root.path()));
    let mut options = VerifyOptions::new(signer(1).verifier());
    options.head = Some(root.path().join("head"));
    let report = verify(&root.path().join("ledger"), &options).expect("genuine");
    assert!(report.unfinished.is_empty());
    let reader = Reader::open(&root.path().join("ledger")).expect("readable");
    let reader = reader.with_text(text(root.path()));
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for index in 0..reader.size() {
        let told = reader.told(index).expect("a record");
        let entry = told.entry;
        let reason = format!("{} {}", entry.session, entry.seq);
        assert!(
            matches!(&entry.record, Record::Gap(gap) if gap.reason == reason),
            "entry {index}: {entry:?}"
        );
        let expected = next.entry(entry.session.clone()).or_default();
        assert_eq!(entry.seq, *expected, "entry {index} of {}", entry.session);
        *expected += 1;
    }
    for (writer, seq) in acknowledged {
        let found = next.get(&writer).copied().unwrap_or(0);
        assert!(found >= seq, "{writer}: {found} of {seq} acknowledged");
    }
}

/// Verifying and reading while others write.
#[test]
fn verified_while_written() {
    let root = tempfile::tempdir().expect("a folder");
    let log = open(root.path());
    let mut options = VerifyOptions::new(signer(1).verifier());
    options.head = Some(root.path().join("head"));
    std::thread::scope(|s| {
        s.spawn(|| {
            for seq in 0..300 {
                let batch = [
                    entry("a", 3 * seq),
                    entry("a", 3 * seq + 1),
                    entry("a", 3 * seq + 2),
                ];
                let batch: Vec<_> = batch.iter().map(Vec::as_slice).collect();
                log.append_batch(&batch).expect("appended");
            }
        });
        s.spawn(|| {
            let mut last = 0;
            while last < 900 {
                let report = verify(&root.path().join("ledger"), &options).expect("genuine");
                assert!(report.size >= last && report.unfinished.is_empty());
                let reader = Reader::open(&root.path().join("ledger")).expect("readable");
                if let Some(newest) = reader.size().checked_sub(1) {
                    reader.entry(newest).expect("an entry");
                    reader.inclusion_proof(newest / 2).expect("a proof");
                    reader.consistency_proof(last).expect("a proof");
                }
                last = report.size;
            }
        });
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Any way to cut entries into batches and to reopen between them gives the same tree.
    #[test]
    fn any_batches_give_the_same_log(
        batches in proptest::collection::vec((1u64..300, any::<bool>()), 1..6)
    ) {
        let root = tempfile::tempdir().expect("a folder");
        let mut log = common::log(root.path(), 0);
        let mut size = 0;
        for (count, reopen) in batches {
            if reopen {
                log = common::log(root.path(), 0);
            }
            common::append(&log, size..size + count);
            size += count;
        }
        drop(log);
        let options = VerifyOptions::new(signer(1).verifier());
        let report = verify(&root.path().join("ledger"), &options).expect("genuine");
        prop_assert_eq!(report.size, size);
        let whole = tempfile::tempdir().expect("a folder");
        common::log(whole.path(), size).close().expect("closed");
        let other = verify(&whole.path().join("ledger"), &options).expect("genuine");
        prop_assert_eq!(report, other);
    }
}
