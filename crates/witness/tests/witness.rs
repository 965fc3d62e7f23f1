//! The witness on the wire, and the client against witnesses that come and go, stand elsewhere, and were
//! shown another history.

mod common;

use std::{fs, os::unix::net::UnixStream, sync::Arc};

use agentwall_ledger::{
    AppendError, Note, TrustPolicy, VerifyError, VerifyOptions, Witness,
    note::NoteSignature,
    verify,
    witness::{AddCheckpoint, log_id},
};
use agentwall_witness::{
    Listen, Outcome, PushError, Pushed, Readback, WitnessService, push, readback, serve,
};

use common::*;

fn request(log: &std::path::Path, old: u64) -> String {
    let reader = reader(log);
    AddCheckpoint {
        old,
        proof: reader.consistency_proof(old).expect("not greater"),
        checkpoint: reader.checkpoint().clone(),
        note: reader.note().clone(),
    }
    .to_string()
}

/// Statuses, content types and bodies as they go over the wire; the checks behind them have their own
/// tests in `agentwall-ledger`.
#[test]
fn the_wire_of_the_document() {
    let root = tempfile::tempdir().expect("a folder");
    let log = root.path().join("log");
    grow(&log, 7, "a");
    let place = Place::new(root.path().join("w"), 5);
    let mut stream = std::net::TcpStream::connect(place.address()).expect("connected");
    let readback = format!("GET /{}/checkpoint", log_id(ORIGIN));
    assert_eq!(ask(&mut stream, &readback, b"").status, 404);

    // All on one connection (keep-alive).
    let first = request(&log, 0);
    let unknown = first.replace(ORIGIN, "log.example/b");
    let malformed = first.replace("old 0", "old 00");
    let unsigned = first.replace("log.example/a\n7", "log.example/a\n8");
    for (body, status) in [(&unknown, 404), (&malformed, 400), (&unsigned, 403)] {
        let raw = ask(&mut stream, "POST /add-checkpoint", body.as_bytes());
        assert_eq!(raw.status, status);
        assert!(
            raw.has("content-type: text/plain; charset=utf-8"),
            "{}",
            raw.head
        );
    }
    let raw = ask(&mut stream, "POST /add-checkpoint", first.as_bytes());
    assert_eq!(raw.status, 200);
    let line = String::from_utf8(raw.body).expect("text");
    let line = NoteSignature::parse(line.strip_suffix('\n').expect("a line")).expect("a signature");
    let mut lines = reader(&log).note().signatures().to_vec();
    lines.push(line);
    let cosigned = reader(&log).note().with_signatures(lines).expect("lines");
    let time = cosigner(5)
        .key()
        .cosigned(reader(&log).checkpoint(), &cosigned);
    assert!(
        matches!(time, Ok(Some(time)) if time > 1_700_000_000),
        "{time:?}"
    );

    let raw = ask(&mut stream, "POST /add-checkpoint", first.as_bytes());
    assert_eq!((raw.status, raw.body.as_slice()), (409, &b"7\n"[..]));
    assert!(raw.has("content-type: text/x.tlog.size"), "{}", raw.head);
    let fork = root.path().join("fork");
    grow(&fork, 7, "b");
    let raw = ask(
        &mut stream,
        "POST /add-checkpoint",
        request(&fork, 7).as_bytes(),
    );
    assert_eq!(raw.status, 422);

    let raw = ask(&mut stream, &readback, b"");
    assert_eq!(
        (raw.status, &raw.body),
        (200, &cosigned.to_text().into_bytes())
    );
    assert!(raw.has("cache-control: no-store"), "{}", raw.head);
    for (head, status) in [
        ("GET /add-checkpoint", 405),
        ("GET /", 404),
        ("GET /../w/lock", 404),
        ("GET /checkpoints/x", 404),
    ] {
        assert_eq!(ask(&mut stream, head, b"").status, status, "{head}");
    }
    let long = vec![b'x'; 200_000];
    let mut other = std::net::TcpStream::connect(place.address()).expect("connected");
    assert_eq!(ask(&mut other, "POST /add-checkpoint", &long).status, 413);
}

#[test]
fn a_unix_socket() {
    let root = tempfile::tempdir().expect("a folder");
    let log = root.path().join("log");
    grow(&log, 3, "a");
    let path = root.path().join("socket");
    let at: Listen = format!("unix:{}", path.display()).parse().expect("a place");
    assert!(at.is_local());
    let witness =
        Arc::new(Witness::open(&root.path().join("w"), cosigner(5), [key()]).expect("opened"));
    for status in [200, 409] {
        let service = WitnessService::new(Arc::clone(&witness), |_| {});
        let server = serve(&at, Arc::new(service)).expect("served");
        let mut stream = UnixStream::connect(&path).expect("connected");
        let raw = ask(
            &mut stream,
            "POST /add-checkpoint",
            request(&log, 0).as_bytes(),
        );
        assert_eq!(raw.status, status);
        // The next one finds the socket that this one leaves; one that is in use is not taken away.
        let service = WitnessService::new(Arc::clone(&witness), |_| {});
        assert!(serve(&at, Arc::new(service)).is_err());
        drop(server);
    }
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "precious").expect("written");
    assert!(serve(&at, Arc::new(WitnessService::new(witness, |_| {}))).is_err());
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
}

struct Scene {
    root: tempfile::TempDir,
    places: Vec<Place>,
}

impl Scene {
    fn new(witnesses: u8) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let place = |byte| Place::new(root.path().join(format!("w{byte}")), byte);
        Scene {
            places: (10..10 + witnesses).map(place).collect(),
            root,
        }
    }

    fn log(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn push_with(&self, name: &str, trust: &TrustPolicy) -> Result<Pushed, PushError> {
        let folder = self.root.path().join(format!("{name}-witnesses"));
        push(&self.log(name), &key(), trust, &folder, PATIENCE)
    }

    fn push(&self, name: &str, k: usize) -> Pushed {
        self.push_with(name, &trust(&self.places, k))
            .expect("pushed")
    }

    /// How many entries witnesses vouch for.
    fn size(&self, name: &str, k: usize) -> u64 {
        let cosigned = reader(&self.log(name)).cosigned(&key(), Some(&trust(&self.places, k)));
        cosigned.expect("checked").map_or(0, |c| c.size())
    }
}

fn cosigned(pushed: &Pushed) -> Vec<bool> {
    let outcomes = pushed.outcomes.iter();
    outcomes
        .map(|(_, o)| matches!(o, Outcome::Cosigned(_)))
        .collect()
}

#[test]
fn two_of_three_witnesses_that_come_and_go() {
    let mut scene = Scene::new(3);
    let log = scene.log("log");
    grow(&log, 5, "a");
    let pushed = scene.push("log", 2);
    assert_eq!(cosigned(&pushed), [true, true, true]);
    assert_eq!(scene.size("log", 2), 5);
    // The log's own checkpoint stays as it is.
    assert_eq!(reader(&log).note().signatures().len(), 1);

    // One is away: nothing waits for it, and the quorum is there.
    grow(&log, 300, "a");
    scene.places[0].down();
    let pushed = scene.push("log", 2);
    assert_eq!(cosigned(&pushed), [false, true, true]);
    assert!(
        matches!(pushed.outcomes[0].1, Outcome::Away(_)),
        "{:?}",
        pushed.outcomes
    );
    assert_eq!(scene.size("log", 2), 300);

    // Two are away: what was witnessed stands, what is new waits.
    grow(&log, 301, "a");
    scene.places[1].down();
    let pushed = scene.push("log", 2);
    assert_eq!(cosigned(&pushed), [false, false, true]);
    assert_eq!(
        (pushed.witnessed.quorum, scene.size("log", 2)),
        (false, 300)
    );

    // They come back one after the other, never two at once; the one that was away is caught up.
    scene.places[2].down();
    scene.places[0].up();
    let pushed = scene.push("log", 2);
    assert_eq!(cosigned(&pushed), [true, false, true]);
    assert_eq!(scene.size("log", 2), 301);
    scene.places[1].up();
    assert_eq!(cosigned(&scene.push("log", 2)), [true, true, true]);
    // What was cosigned stays so while nobody is there.
    scene.places.iter_mut().for_each(Place::down);
    assert_eq!(cosigned(&scene.push("log", 2)), [true, true, true]);
    assert_eq!(scene.size("log", 3), 301);

    // A whole log is verified with it, and not without those who vouch for it.
    let mut options = VerifyOptions::new(key());
    options.trust = Some(trust(&scene.places, 3));
    let report = verify(&log, &options).expect("genuine");
    assert_eq!(report.cosigned.expect("cosigned").size(), 301);
    let strangers = [Place::new(scene.log("s"), 77)];
    options.trust = Some(trust(&strangers, 1));
    let report = verify(&log, &options).expect("genuine");
    assert_eq!(report.cosigned.expect("there").size(), 0);
}

#[test]
fn a_push_that_fails_says_why_and_leaves_what_was() {
    let mut scene = Scene::new(1);
    let log = scene.log("log");
    grow(&log, 5, "a");
    scene.push("log", 1);
    grow(&log, 6, "a");
    let kept = fs::read(log.join("checkpoint.cosigned")).expect("there");

    // Another log's witness, one whose key is another, something that is no witness.
    let place = &scene.places[0];
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let other_log = Witness::open(
        &scene.log("w-other"),
        cosigner(50),
        [signer("else", 3).verifier()],
    );
    let other_log = start(WitnessService::new(
        Arc::new(other_log.expect("opened")),
        |_| {},
    ));
    let tiles = start(agentwall_witness::LogService::new(log.clone(), |_| {}));
    let text = format!(
        "witness wrong-key {} {}\nwitness other-log {} http://{}\nwitness no-witness {} http://{}\n\
         witness closed {} http://127.0.0.1:1\nwitness nowhere {}\nwitness no-url {} ftp://x\n\
         group g any wrong-key other-log no-witness closed nowhere no-url\nquorum g\n",
        cosigner(51).key(),
        place.url(),
        cosigner(50).key(),
        other_log.at(),
        cosigner(52).key(),
        tiles.at(),
        cosigner(53).key(),
        cosigner(54).key(),
        cosigner(55).key(),
    );
    let trust = TrustPolicy::parse(text.as_bytes()).expect("a policy");
    let pushed = scene.push_with("log", &trust).expect("pushed");
    let outcomes: Vec<&Outcome> = pushed.outcomes.iter().map(|(_, o)| o).collect();
    assert!(matches!(outcomes[0], Outcome::Away(_)), "{outcomes:?}");
    assert!(
        matches!(outcomes[1], Outcome::Refused(404, _)),
        "{outcomes:?}"
    );
    assert!(
        matches!(outcomes[2], Outcome::Refused(405 | 413, _)),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[3], Outcome::Away(_)), "{outcomes:?}");
    assert_eq!(outcomes[4], &Outcome::NoUrl);
    assert!(matches!(outcomes[5], Outcome::Away(_)), "{outcomes:?}");
    assert_eq!(
        fs::read(log.join("checkpoint.cosigned")).expect("there"),
        kept
    );

    // One that takes the connection and never answers is left after a while.
    let address = silent.local_addr().expect("bound");
    let text = format!(
        "witness mute {} http://{address}\nquorum mute\n",
        cosigner(56).key()
    );
    let trust = TrustPolicy::parse(text.as_bytes()).expect("a policy");
    let folder = scene.log("log-witnesses");
    let short = std::time::Duration::from_millis(300);
    let pushed = push(&log, &key(), &trust, &folder, short).expect("pushed");
    assert!(matches!(pushed.outcomes[0].1, Outcome::Away(_)));

    // The log is not held up meanwhile, and two pushes are not at it at once.
    let held = fs::File::open(folder.join("lock")).expect("there");
    held.try_lock().expect("free");
    assert!(matches!(
        scene.push_with("log", &trust),
        Err(PushError::Busy)
    ));
    drop(held);
    scene.places[0].down();
}

/// The holder of the key shows one history to one witness and another to the other.
#[test]
fn a_split_view_is_detected() {
    let scene = Scene::new(2);
    let (ours, theirs) = (scene.log("ours"), scene.log("theirs"));
    for (log, history) in [(&ours, "a"), (&theirs, "b")] {
        grow(log, 3, "shared");
        grow(log, 9, history);
    }
    // Each history gets one witness, by policies that name that one alone …
    let (first, second) = scene.places.split_at(1);
    let (first, second) = (trust(first, 1), trust(second, 1));
    assert!(
        scene
            .push_with("ours", &first)
            .expect("pushed")
            .witnessed
            .quorum
    );
    assert!(
        scene
            .push_with("theirs", &second)
            .expect("pushed")
            .witnessed
            .quorum
    );
    // … and no history gets both: the other witness refuses, at this size and when it has grown.
    for size in [9, 20] {
        grow(&ours, size, "a");
        let pushed = scene.push("ours", 2);
        let outcomes: Vec<&Outcome> = pushed.outcomes.iter().map(|(_, o)| o).collect();
        assert!(matches!(outcomes[0], Outcome::Cosigned(_)), "{outcomes:?}");
        assert!(
            matches!(outcomes[1], Outcome::OtherHistory(_)),
            "{outcomes:?}"
        );
        assert!(outcomes[1].contradicts() && !pushed.witnessed.quorum);
    }
    let pushed = scene.push("theirs", 2);
    assert_eq!(pushed.outcomes[0].1, Outcome::Ahead(20));
    assert!(pushed.outcomes[0].1.contradicts());
    for log in ["ours", "theirs"] {
        assert_eq!(scene.size(log, 2), 0);
    }

    let pushed = scene.push_with("ours", &first).expect("pushed");
    assert!(pushed.witnessed.quorum);

    // A monitor that compares what they show sees it, too.
    let both = trust(&scene.places, 2);
    let shown = |log, i: usize| readback(&reader(log), &key(), &both.witnesses()[i], PATIENCE);
    assert_eq!(shown(&ours, 0), Readback::Agrees(20));
    assert!(matches!(
        shown(&ours, 1),
        Readback::Not(Outcome::OtherHistory(_))
    ));
    assert_eq!(shown(&theirs, 0), Readback::Not(Outcome::Ahead(20)));
    assert_eq!(shown(&theirs, 1), Readback::Agrees(9));
    // The witness has kept the other history's checkpoint, signed by the log: nobody can deny it.
    drop(scene.places);
    let witness =
        Witness::open(&scene.root.path().join("w11"), cosigner(11), [key()]).expect("opened");
    let evidence = witness.evidence(ORIGIN);
    assert_eq!(evidence.len(), 2);
    for note in evidence {
        let note = Note::parse(note.as_bytes()).expect("a note");
        note.verify(&key()).expect("signed");
    }

    // A log that is exchanged under its cosigned checkpoint does not verify, and is not pushed.
    fs::copy(
        ours.join("checkpoint.cosigned"),
        theirs.join("checkpoint.cosigned"),
    )
    .expect("copied");
    let refused = |log: &std::path::Path| {
        let error = verify(log, &VerifyOptions::new(key())).expect_err("refused");
        assert!(matches!(error, VerifyError::Cosigned(_)), "{error}");
        let error = push(log, &key(), &both, &log.join("../f"), PATIENCE).expect_err("refused");
        assert!(matches!(error, PushError::Cosigned(_)), "{error}");
        error.to_string()
    };
    assert!(refused(&theirs).contains("put back to an older state"));
    grow(&theirs, 25, "b");
    assert!(refused(&theirs).contains("history was replaced"));
}

/// What a log does while witnesses are slow or gone is the log's business alone.
#[test]
fn the_log_goes_on_while_a_witness_is_mute() -> Result<(), AppendError> {
    let root = tempfile::tempdir().expect("a folder");
    let log = root.path().join("log");
    grow(&log, 5, "a");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = silent.local_addr().expect("bound");
    let text = format!(
        "witness mute {} http://{address}\nquorum mute\n",
        cosigner(5).key()
    );
    let trust = TrustPolicy::parse(text.as_bytes()).expect("a policy");
    let folder = root.path().join("witnesses");
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let patience = std::time::Duration::from_secs(2);
            push(&log, &key(), &trust, &folder, patience)
        });
        // The witness has the request and keeps it.
        let (held, _) = silent.accept().expect("connected");
        let open = agentwall_ledger::Log::open(&log, signer(ORIGIN, 1)).expect("opened");
        for i in 5..50 {
            assert_eq!(open.append(b"{}")?, i);
        }
        assert!(!pushing.is_finished() || reader(&log).size() == 50);
        drop(held);
        let pushed = pushing.join().expect("no panic").expect("pushed");
        assert_eq!(pushed.checkpoint.size, 5);
        Ok(())
    })
}
