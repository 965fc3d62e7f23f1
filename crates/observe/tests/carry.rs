//! Real connections: an agent's plain one, a model's with TLS, and what the sink hears in between.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use agentwall_observe::{Carried, CarryError, Inspector, Sink, ToolCall, Unread};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::PrivateKeyDer,
};

const HOST: &str = "model.example";
const CALL: &str = r#"{"type":"message","content":[{"type":"text","text":"so"},{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}]}"#;

/// Remembers; the test says whether a call may go on.
struct Listening {
    heard: Mutex<Vec<String>>,
    verdict: Mutex<mpsc::Receiver<Result<(), String>>>,
}

impl Sink for Listening {
    fn tool_call(&self, host: &str, call: &ToolCall) -> Result<(), String> {
        let text = format!(
            "{host} {} {} {} ({})",
            call.id, call.name, call.input, call.why
        );
        self.heard.lock().unwrap().push(text);
        self.verdict.lock().unwrap().recv().unwrap()
    }

    fn request(&self, _: &str, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        self.heard.lock().unwrap().push(format!("asked {text}"));
    }

    fn unread(&self, _: &str, why: Unread) {
        self.heard.lock().unwrap().push(why.to_string());
    }
}

/// An agent's connection to a model that sends `answers`, one for each request.
struct Pair {
    agent: BufReader<TcpStream>,
    /// What the model was asked.
    asked: mpsc::Receiver<String>,
    sink: Arc<Listening>,
    verdict: mpsc::Sender<Result<(), String>>,
    stop: Option<OwnedFd>,
    carried: JoinHandle<(Carried, Result<(), CarryError>)>,
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

impl Pair {
    fn new(certified: &str, answers: &'static [&'static str]) -> Pair {
        let made = rcgen::generate_simple_self_signed([certified.to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();

        let (upstream, model) = connected();
        let (ask, asked) = mpsc::channel();
        std::thread::spawn(move || {
            let tls = ServerConnection::new(Arc::new(server)).unwrap();
            let mut tls = BufReader::new(StreamOwned::new(tls, model));
            for answer in answers {
                let Some(request) = request(&mut tls) else {
                    return;
                };
                let _ = ask.send(request);
                tls.get_mut().write_all(answer.as_bytes()).unwrap();
                tls.get_mut().flush().unwrap();
            }
            // Until the other side has read all.
            let _ = tls.read(&mut [0]);
        });
        let (agent, inner) = connected();
        agent
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let (verdict, receiver) = mpsc::channel();
        let sink = Arc::new(Listening {
            heard: Mutex::default(),
            verdict: Mutex::new(receiver),
        });
        let inspector = Inspector::with_tls(client, sink.clone());
        let (stop, stopped) = std::io::pipe().unwrap();
        let carried = std::thread::spawn(move || {
            inspector.carry(inner.into(), upstream.into(), HOST, &stop.into())
        });
        Pair {
            agent: BufReader::new(agent),
            asked,
            sink,
            verdict,
            stop: Some(stopped.into()),
            carried,
        }
    }

    fn ask(&mut self, head: &str, body: &str) {
        let length = body.len();
        write!(
            self.agent.get_mut(),
            "POST /v1/messages HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
    }

    /// Everything up to a text.
    fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let mut byte = [0];
            match self.agent.read(&mut byte) {
                Ok(1) => text.push(byte[0]),
                other => panic!("{other:?} after {}", String::from_utf8_lossy(&text)),
            }
        }
        String::from_utf8(text).unwrap()
    }

    fn rest(&mut self) -> String {
        let mut text = Vec::new();
        let _ = self.agent.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    fn heard(&self) -> Vec<String> {
        self.sink.heard.lock().unwrap().clone()
    }
}

/// A request with its body; `None` at the end.
fn request(from: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|l| {
        l.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
    11\r\ndata: {\"one\":1}\n\n\r\n\
    6c\r\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"Bash\"}}\n\n\r\n\
    34\r\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nafter\r\n\
    0\r\n\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_call_is_told_before_the_agent_has_it() {
    let mut pair = Pair::new(HOST, &[STREAM, PLAIN]);
    pair.ask("Host: model.example\r\nAccept-Encoding: gzip\r\nConnection: x-mine\r\nX-Mine: 1\r\nX-Yours: 2\r\n", "{\"a\":1}");
    let asked = pair.asked.recv().unwrap();
    assert!(
        asked.contains("accept-encoding: identity") && asked.ends_with("{\"a\":1}"),
        "{asked}"
    );
    assert!(
        asked.contains("x-yours: 2") && !asked.contains("x-mine: 1"),
        "{asked}"
    );
    let before = pair.until("{\"one\":1}\n\n");
    assert!(before.starts_with("HTTP/1.1 200 OK"), "{before}");
    while pair.heard().len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(pair.heard()[1], "model.example t1 Bash null ()");
    // What completes the call is not there while the sink has not said yes.
    pair.agent
        .get_ref()
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let held = pair.rest();
    assert!(!held.contains("content_block_stop"), "{held}");
    pair.agent
        .get_ref()
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    pair.verdict.send(Ok(())).unwrap();
    let after = pair.until("after\r\n0\r\n\r\n");
    assert!(after.contains("content_block_stop"), "{after}");
    // The connection goes on.
    pair.ask("Host: MODEL.example:80\r\n", "t1 said x");
    assert!(pair.until("hi").contains("200 OK"));
    assert_eq!(pair.heard()[0], "asked {\"a\":1}");
    assert_eq!(pair.heard()[2], "asked t1 said x");
    drop(pair.agent);
    let (carried, result) = pair.carried.join().unwrap();
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(carried.up, 16);
}

#[test]
fn a_call_that_cannot_be_recorded_does_not_reach_the_agent() {
    static ANSWER: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let whole = ANSWER.get_or_init(|| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{CALL}",
            CALL.len()
        )
    });
    for answer in [STREAM, whole] {
        let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
        let mut pair = Pair::new(HOST, answers);
        pair.verdict.send(Err("the disk is full".into())).unwrap();
        pair.ask("Host: model.example\r\n", "");
        let text = pair.rest();
        assert!(
            !text.contains("content_block_stop") && !text.contains("\"input\""),
            "{text}"
        );
        assert!(
            pair.heard()
                .iter()
                .any(|h| h.starts_with("model.example t1 Bash"))
        );
        assert!(pair.carried.join().unwrap().1.is_err());
    }
}

#[test]
fn what_is_not_understood_goes_on_and_is_told() {
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{no}";
    let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
    let mut pair = Pair::new(HOST, answers);
    pair.ask("Host: model.example\r\n", "");
    pair.until("{no}");
    let heard = pair.heard();
    assert!(heard.iter().any(|h| h.contains("not JSON")), "{heard:?}");
}

#[test]
fn the_connection_leads_to_its_host_alone() {
    let mut pair = Pair::new(HOST, &[PLAIN]);
    pair.ask("Host: other.example\r\n", "");
    assert!(pair.rest().starts_with("HTTP/1.1 421"));
    assert!(pair.asked.try_recv().is_err(), "it was asked all the same");
    let mut pair = Pair::new(HOST, &[PLAIN]);
    pair.ask(
        "Host: model.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        "",
    );
    assert!(pair.rest().starts_with("HTTP/1.1 501"));
}

#[test]
fn a_server_without_the_right_certificate_is_told_nothing() {
    let mut pair = Pair::new("other.example", &[PLAIN]);
    pair.ask("Host: model.example\r\n", "secret");
    assert_eq!(pair.rest(), "");
    assert!(pair.asked.recv().is_err(), "the model was asked");
    let error = pair.carried.join().unwrap().1.unwrap_err().to_string();
    assert!(error.contains("ertificate"), "{error}");
}

#[test]
fn the_end_of_the_session_ends_it() {
    let mut pair = Pair::new(HOST, &[PLAIN]);
    pair.ask("Host: model.example\r\n", "");
    pair.until("hi");
    pair.stop = None;
    assert_eq!(pair.rest(), "");
    let result = pair.carried.join().unwrap().1;
    assert!(matches!(result, Err(CarryError::Stopped)));
}
