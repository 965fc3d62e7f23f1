//! A log on a server: what is handed out, under which names and headers; and a copy of it verified.

mod common;

use std::fs;

use agentwall_ledger::{VerifyOptions, tile::TILE_WIDTH, verify};
use agentwall_witness::{FetchError, LogService, fetch};

use common::*;

#[test]
fn tiles_for_monitors() {
    let root = tempfile::tempdir().expect("a folder");
    let log = root.path().join("log");
    grow(&log, 260, "a");
    grow(&log, 300, "a");
    let server = start(LogService::new(log.clone(), |_| {}));
    let at = address(server.at());
    let get = |path: &str| ask_at(at, &format!("GET {path}"), b"");

    let checkpoint = get("/checkpoint");
    assert_eq!(
        checkpoint.body,
        fs::read(log.join("checkpoint")).expect("there")
    );
    assert!(checkpoint.has("content-type: text/plain; charset=utf-8"));
    assert!(checkpoint.has("cache-control: no-store"));
    assert_eq!(get("/checkpoint.cosigned").status, 404);
    for name in [
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/44",
    ] {
        let tile = get(&format!("/{name}"));
        assert_eq!(tile.status, 200, "{name}");
        assert_eq!(
            tile.body,
            fs::read(log.join(name)).expect("there"),
            "{name}"
        );
        assert!(tile.has("content-type: application/octet-stream"));
        assert!(tile.has("cache-control: public, max-age=31536000, immutable"));
        let head = ask_at(at, &format!("HEAD /{name}"), b"");
        assert!(head.has(&format!("content-length: {}", tile.body.len())));
        assert_eq!(ask_at(at, &format!("POST /{name}"), b"").status, 405);
    }
    // A page that has pointed its own name here reads nothing.
    let rebound = "GET /checkpoint HTTP/1.1\r\nhost: evil.example:80\r\nx-was:";
    assert_eq!(ask_at(at, rebound, b"").status, 403);
    // Every size that had a checkpoint has its tiles, though their files are gone.
    assert!(!log.join("tile/0/001.p/4").exists());
    let narrow = get("/tile/0/001.p/4").body;
    assert_eq!(narrow, get("/tile/0/001.p/44").body[..4 * 32]);
    let bundle = get("/tile/entries/001.p/4").body;
    assert!(get("/tile/entries/001.p/44").body.starts_with(&bundle) && !bundle.is_empty());

    // What no checkpoint covers is not handed out, though it lies there: it is the rest of a commit that
    // was cut off, and another will be written under its name.
    for name in [
        "tile/0/001.p/45",
        "tile/0/002",
        "tile/entries/001.p/45",
        "tile/2/000.p/1",
    ] {
        let path = log.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, vec![7; 45 * 32]).expect("written");
        assert_eq!(get(&format!("/{name}")).status, 404, "{name}");
    }
    for path in [
        "/",
        "/lock",
        "/../log/lock",
        "/tile/0/../../lock",
        "/tile/0/0",
        "/tile/0/000.p/0",
        "/tile/0/000?x",
        "/tile//0/000",
        "/%74ile/0/000",
        "/tile/0/x000/000",
        "//etc/passwd",
        "/head",
        "/tile",
    ] {
        assert_eq!(get(path).status, 404, "{path}");
    }
    assert_eq!(u64::from(TILE_WIDTH) + 44, reader(&log).size());
}

#[test]
fn a_copy_is_verified_like_any_folder() {
    let root = tempfile::tempdir().expect("a folder");
    let log = root.path().join("log");
    grow(&log, 600, "a");
    let places = [Place::new(root.path().join("w"), 9)];
    let trust = trust(&places, 1);
    let folder = root.path().join("witnesses");
    agentwall_witness::push(&log, &key(), &trust, &folder, PATIENCE).expect("pushed");
    grow(&log, 700, "a");

    let server = start(LogService::new(log.clone(), |_| {}));
    let url = format!("http://{}/", server.at());
    let copy = |name: &str| {
        let copy = root.path().join(name);
        fs::create_dir(&copy).expect("made");
        fetch(&url, &key(), &copy, PATIENCE).map(|checkpoint| (copy, checkpoint))
    };
    let (dir, checkpoint) = copy("copy").expect("copied");
    assert_eq!(checkpoint.size, 700);
    let mut options = VerifyOptions::new(key());
    options.trust = Some(trust);
    let report = verify(&dir, &options).expect("genuine");
    assert_eq!(report.size, 700);
    assert_eq!(report.cosigned.expect("cosigned").size(), 600);

    // A server that changes an entry, or has another key.
    let bundle = log.join("tile/entries/001");
    let good = fs::read(&bundle).expect("there");
    let mut bad = good.clone();
    bad[20] ^= 1;
    fs::write(&bundle, &bad).expect("written");
    let (dir, _) = copy("changed").expect("copied");
    assert!(verify(&dir, &options).is_err());
    fs::write(&bundle, &good).expect("written");
    let other = signer(ORIGIN, 99).verifier();
    let empty = root.path().join("empty");
    fs::create_dir(&empty).expect("made");
    let error = fetch(&url, &other, &empty, PATIENCE).expect_err("refused");
    assert!(matches!(error, FetchError::Checkpoint(_)), "{error}");
    fs::remove_file(log.join("tile/0/000")).expect("removed");
    let error = copy("cut").expect_err("refused");
    assert!(
        matches!(error, FetchError::Status { status: 500, .. }),
        "{error}"
    );
}
