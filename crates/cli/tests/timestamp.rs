//! `agentwall ledger timestamp`: an authority of OpenSSL behind a small server says when the log was there, and `verify`
//! tells only what was checked.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use support::Host;

fn openssl(dir: &Path, args: &[&str]) {
    let done = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {said}");
}

/// Answers each query with a timestamp, or with what it is told to.
struct Authority {
    dir: PathBuf,
    url: String,
    instead: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Authority {
    fn new(dir: PathBuf) -> Authority {
        fs::create_dir(&dir).unwrap();
        let config = "[tsa]\ndefault_tsa = c\n[c]\nserial = serial\ncrypto_device = builtin\nsigner_digest = sha256\n\
                      default_policy = 1.2.3.4.1\ndigests = sha256\ness_cert_id_alg = sha256\n";
        fs::write(dir.join("tsa.cnf"), config).unwrap();
        fs::write(dir.join("serial"), "01\n").unwrap();
        let ext = "extendedKeyUsage=critical,timeStamping\nbasicConstraints=CA:FALSE\n";
        fs::write(dir.join("tsa.ext"), ext).unwrap();
        for root in ["root", "stranger"] {
            let (subject, key) = (format!("/CN={root}"), format!("{root}.key"));
            let out = format!("{root}.pem");
            openssl(
                &dir,
                &[
                    "req",
                    "-x509",
                    "-nodes",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-days",
                    "3650",
                    "-subj",
                    &subject,
                    "-keyout",
                    &key,
                    "-out",
                    &out,
                ],
            );
        }
        openssl(
            &dir,
            &[
                "req",
                "-new",
                "-nodes",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-subj",
                "/CN=the clock",
                "-keyout",
                "tsa.key",
                "-out",
                "tsa.csr",
            ],
        );
        openssl(
            &dir,
            &[
                "x509",
                "-req",
                "-days",
                "3650",
                "-CA",
                "root.pem",
                "-CAkey",
                "root.key",
                "-CAcreateserial",
                "-in",
                "tsa.csr",
                "-extfile",
                "tsa.ext",
                "-out",
                "tsa.pem",
            ],
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let instead = Arc::new(Mutex::new(None));
        let (place, told) = (dir.clone(), Arc::clone(&instead));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let instead: Option<Vec<u8>> = told.lock().unwrap().clone();
                answer(&place, stream, instead);
            }
        });
        Authority { dir, url, instead }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }
}

fn answer(dir: &Path, stream: TcpStream, instead: Option<Vec<u8>>) {
    let mut from = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    while from.read_line(&mut line).unwrap() > 2 {
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut query = vec![0; length];
    from.read_exact(&mut query).unwrap();
    fs::write(dir.join("q"), query).unwrap();
    openssl(
        dir,
        &[
            "ts",
            "-reply",
            "-queryfile",
            "q",
            "-config",
            "tsa.cnf",
            "-signer",
            "tsa.pem",
            "-inkey",
            "tsa.key",
            "-out",
            "r",
        ],
    );
    let reply = instead.unwrap_or_else(|| fs::read(dir.join("r")).unwrap());
    let mut to = from.into_inner();
    let head =
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/timestamp-reply\r\n";
    write!(to, "{head}content-length: {}\r\n\r\n", reply.len()).unwrap();
    to.write_all(&reply).unwrap();
}

fn with_entries(host: &Host, id: &str) {
    let session = host.session(id, "alpha");
    session.write(format!("{id}.txt"), "x\n");
    host.call(&["commit", id]).code(0);
}

fn kept(host: &Host, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(host.state.join("timestamps"))
        .into_iter()
        .flatten()
        .flatten();
    let files = files.map(|f| f.path());
    files
        .filter(|f| f.extension().is_some_and(|e| e == extension))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[test]
fn an_authority_dates_the_log_and_a_log_that_was_put_back_contradicts_it() {
    let host = Host::new();
    let clock = Authority::new(host.tmp.path().join("authority"));
    let ca = clock.file("root.pem");
    let args = ["ledger", "timestamp", "--tsa", &clock.url, "--ca", &ca];
    let said = host.call(&args).code(1);
    assert!(said.err.contains("no ledger yet"), "{}", said.err);
    with_entries(&host, "20261121-0259-k3f9");
    let before = host.tmp.path().join("before");
    copy(&host.state, &before);
    with_entries(&host, "20261121-0301-p7qx");
    let said = host.call(&args).code(0);
    assert!(said.out.contains("CN=the clock"), "{}", said.out);
    with_entries(&host, "20261121-0302-aaaa");
    let json = host.call(&["ledger", "verify", "--json"]).code(0).json();
    let dated = &json["timestamps"][0];
    assert_eq!(dated["authority"], "CN=the clock", "{json}");
    assert!(dated["size"].as_u64() < json["size"].as_u64(), "{json}");
    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(said.out.contains("entries were there at"), "{}", said.out);

    // The same says OpenSSL.
    let (reply, note) = (
        kept(&host, "tsr").remove(0),
        kept(&host, "checkpoint").remove(0),
    );
    let [reply, note] = [&reply, &note].map(|p| p.to_str().unwrap());
    openssl(
        &clock.dir,
        &["ts", "-verify", "-data", note, "-in", reply, "-CAfile", &ca],
    );

    // Everything that this host remembers of the log is put back; the timestamp is not.
    let stamps = host.state.join("timestamps");
    let aside = host.tmp.path().join("aside");
    fs::rename(&stamps, &aside).unwrap();
    fs::remove_dir_all(&host.state).unwrap();
    copy(&before, &host.state);
    host.call(&["ledger", "verify"]).code(0);
    fs::rename(&aside, &stamps).unwrap();
    let said = host.call(&["ledger", "verify"]).code(1);
    assert!(said.err.contains("put back or rewritten"), "{}", said.err);
}

#[test]
fn what_is_not_checked_is_not_told_as_a_time() {
    let host = Host::new();
    let clock = Authority::new(host.tmp.path().join("authority"));
    with_entries(&host, "20261121-0259-k3f9");
    let stamp =
        |more: &[&str]| host.call(&[&["ledger", "timestamp", "--tsa", &clock.url], more].concat());
    let (root, stranger) = (clock.file("root.pem"), clock.file("stranger.pem"));
    // Another authority's root, and a reply that was given before.
    let said = stamp(&["--ca", &stranger]).code(1);
    assert!(
        said.err.contains("not signed as it must be"),
        "{}",
        said.err
    );
    *clock.instead.lock().unwrap() = Some(fs::read(clock.file("r")).unwrap());
    let said = stamp(&["--ca", &root]).code(1);
    assert!(said.err.contains("another nonce"), "{}", said.err);
    *clock.instead.lock().unwrap() = Some(b"no reply".to_vec());
    stamp(&["--ca", &root]).code(1);
    assert!(kept(&host, "tsr").is_empty());

    *clock.instead.lock().unwrap() = None;
    let said = stamp(&[]).code(0);
    assert!(said.out.contains("was not checked"), "{}", said.out);
    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(said.out.contains("kept without --ca"), "{}", said.out);
    assert!(!said.out.contains("were there at"), "{}", said.out);
    // The right certificates make it one that is told; a changed one is not.
    let file = kept(&host, "tsr").remove(0);
    fs::copy(&root, file.with_extension("pem")).unwrap();
    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(said.out.contains("were there at"), "{}", said.out);
    let mut reply = fs::read(&file).unwrap();
    let last = reply.len() - 1;
    reply[last] ^= 1;
    fs::write(&file, reply).unwrap();
    let said = host.call(&["ledger", "verify"]).code(0);
    assert!(said.out.contains("not believed"), "{}", said.out);
    assert!(!said.out.contains("were there at"), "{}", said.out);
}
