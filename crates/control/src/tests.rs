//! The routes and their table, asked without a network.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_action::{Action, Decision, Effect, Resource, Subject, Verb};
use agentwall_store::Accounts;
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response, StatusCode},
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tower::ServiceExt as _;

use crate::{
    Config, Console,
    access::{Need, ROUTES, Role},
    host::{Act, Answer, GatewayAgent, Host, HostError, LedgerEntry, PendingAsk, Waiting},
    invite, new_token, openapi, router,
};

const HOST: &str = "localhost:1";
/// How long a test waits for what is to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// One question waits; what is done to it is written down.
#[derive(Default)]
struct Fake {
    done: Mutex<Vec<String>>,
    /// The ledger cannot be written.
    full: bool,
    /// A gateway does not answer.
    silent: AtomicBool,
}

impl Host for Fake {
    fn waiting(&self) -> Result<Waiting, HostError> {
        Ok(match self.silent.load(Ordering::SeqCst) {
            false => Waiting {
                asks: vec![question()],
                trouble: vec![],
            },
            true => Waiting {
                asks: vec![],
                trouble: vec!["the gateway 'api' does not answer".into()],
            },
        })
    }
    fn answer(&self, id: &str, answer: &Answer) -> Result<String, HostError> {
        self.done.lock().unwrap().push(format!("{id} {answer:?}"));
        Ok("done".into())
    }
    fn agents(&self) -> Result<Vec<GatewayAgent>, HostError> {
        Ok(vec![])
    }
    fn revoke(&self, id: &str) -> Result<String, HostError> {
        self.done.lock().unwrap().push(format!("revoke {id}"));
        Ok("done".into())
    }
    fn gateways(&self) -> Result<Vec<String>, HostError> {
        Ok(vec!["api".into()])
    }
    fn decisions(&self, _: Option<u64>, _: usize) -> Result<Vec<LedgerEntry>, HostError> {
        Ok(vec![])
    }
    fn record(&self, _: &Act<'_>) -> Result<(), HostError> {
        match self.full {
            true => Err(HostError::Unavailable("the disk is full".into())),
            false => Ok(()),
        }
    }
}

fn question() -> PendingAsk {
    PendingAsk {
        id: "api:1".into(),
        session: "api".into(),
        name: "agt_1".into(),
        action: Action::new(
            Subject::agent("h/a"),
            Verb::HttpRequest,
            Resource::Named("x".into()),
        ),
        decision: Decision {
            effect: Effect::Ask,
            rule: None,
            reason: "why".into(),
            hint: Default::default(),
            monitors: vec![],
            errors: vec![],
            policy: "p".into(),
        },
        exe: "POST http://x/".into(),
        pid: 0,
        since_ms: 0,
        expires_ms: 1,
        digest: "ab".repeat(32),
        canonical: Some("{}".into()),
        risks: vec![],
        before: None,
    }
}

struct World {
    _dir: tempfile::TempDir,
    console: Arc<Console>,
    host: Arc<Fake>,
}

impl World {
    fn new(host: Fake) -> World {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&dir.path().join("console.db")).unwrap();
        let host = Arc::new(host);
        let config = Config {
            origin: format!("http://{HOST}"),
            hosts: vec![HOST.into()],
        };
        let console = Console::new(config, Arc::<Fake>::clone(&host), accounts).unwrap();
        World {
            _dir: dir,
            console,
            host,
        }
    }

    fn token(&self, role: Role) -> String {
        let made = new_token(&self.console.accounts, role.as_str(), role, 0).unwrap();
        made.unwrap().as_str().to_owned()
    }

    async fn ask(
        &self,
        method: &Method,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> Response<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", HOST)
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        router(Arc::clone(&self.console))
            .oneshot(request)
            .await
            .unwrap()
    }

    fn done(&self) -> Vec<String> {
        self.host.done.lock().unwrap().clone()
    }
}

fn filled(path: &str) -> String {
    path.replace("{id}", "api%3A1")
        .replace("{file}", "console.js")
}

#[tokio::test]
async fn every_row_is_a_route_and_lets_in_whom_it_says() {
    let world = World::new(Fake::default());
    let tokens = Role::ALL.map(|role| (role, world.token(role)));
    for (method, path, need) in ROUTES {
        let nobody = world.ask(method, &filled(path), None, "{}").await.status();
        assert_ne!(nobody, StatusCode::NOT_FOUND, "{method} {path}");
        assert_ne!(nobody, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::SEE_OTHER].contains(&nobody);
        assert_eq!(refused, *need != Need::Nothing, "{method} {path}: {nobody}");
        for (role, token) in &tokens {
            let got = world.ask(method, &filled(path), Some(token), "{}").await;
            let status = got.status();
            let kind = problem(got).await;
            let refused = kind.as_deref() == Some("urn:agentwall:problem:not-permitted");
            assert_eq!(
                refused,
                !role.may(*need),
                "{method} {path} {role:?}: {status} {kind:?}"
            );
        }
    }
}

async fn problem(answer: Response<Body>) -> Option<String> {
    // A stream of events never ends.
    let kind = answer.headers().get("content-type");
    if kind.is_none_or(|v| v != "application/problem+json") {
        return None;
    }
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let value: Value = serde_json::from_slice(&body).unwrap();
    value["type"].as_str().map(str::to_owned)
}

#[test]
fn the_description_has_every_route_of_the_interface_and_no_other() {
    let described = serde_json::to_value(openapi()).unwrap();
    assert_eq!(described["openapi"], "3.1.0");
    let mut found = BTreeSet::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            found.insert((method.to_uppercase(), path.clone()));
        }
    }
    let rows = ROUTES.iter().filter(|(_, path, _)| {
        path.starts_with("/api/")
            // The description itself, and a stream, which no OpenAPI client reads.
            && !["/api/v1/openapi.json", "/api/v1/events"].contains(path)
    });
    let expected = rows.map(|(method, path, _)| (method.to_string(), (*path).to_owned()));
    assert_eq!(found, expected.collect());
}

#[tokio::test]
async fn an_approval_is_of_what_was_shown_and_recorded_first() {
    let world = World::new(Fake::default());
    let token = world.token(Role::Approver);
    let approve =
        |digest: &str, scope: &str| format!(r#"{{"digest":"{digest}","scope":"{scope}"}}"#);
    let path = "/api/v1/questions/api%3A1/approve";
    let digest = "ab".repeat(32);
    for (body, status) in [
        (approve(&"cd".repeat(32), "once"), StatusCode::CONFLICT),
        (approve(&digest, "pattern"), StatusCode::BAD_REQUEST),
        (approve(&digest, "for ever"), StatusCode::BAD_REQUEST),
        ("{}".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let answer = world.ask(&Method::POST, path, Some(&token), &body).await;
        assert_eq!(answer.status(), status, "{body}");
    }
    let body = approve(&digest, "once");
    let other = "/api/v1/questions/api%3A2/approve";
    let answer = world.ask(&Method::POST, other, Some(&token), &body).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(world.done().is_empty());
    let answer = world.ask(&Method::POST, path, Some(&token), &body).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(world.done().len(), 1);

    let world = World::new(Fake {
        full: true,
        ..Fake::default()
    });
    let token = world.token(Role::Approver);
    let answer = world.ask(&Method::POST, path, Some(&token), &body).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(world.done().is_empty(), "what is not recorded is not done");
}

#[tokio::test]
async fn a_question_of_a_holder_that_is_silent_is_not_said_to_be_gone() {
    let world = World::new(Fake::default());
    let token = world.token(Role::Admin);
    let digest = "ab".repeat(32);
    let approve = format!(r#"{{"digest":"{digest}","scope":"once"}}"#);
    world.host.silent.store(true, Ordering::SeqCst);
    for (method, path, body) in [
        (Method::GET, "/api/v1/questions/api%3A1", ""),
        (
            Method::GET,
            "/api/v1/questions/api%3A1/pattern?pattern=x",
            "",
        ),
        (Method::POST, "/api/v1/questions/api%3A1/approve", &*approve),
        (Method::POST, "/api/v1/questions/api%3A1/reject", "{}"),
    ] {
        let answer = world.ask(&method, path, Some(&token), body).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let kind = problem(answer).await;
        assert_eq!(kind.as_deref(), Some("urn:agentwall:problem:unavailable"));
    }
    // Who listens is told about the trouble with it.
    let answer = world
        .ask(&Method::GET, "/api/v1/events", Some(&token), "")
        .await;
    let mut events = answer.into_body().into_data_stream();
    let first = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
    let first = String::from_utf8(first.unwrap().unwrap().to_vec()).unwrap();
    assert!(first.contains("does not answer"), "{first}");
    world.host.silent.store(false, Ordering::SeqCst);
    let path = "/api/v1/questions/api%3A2";
    let answer = world.ask(&Method::GET, path, Some(&token), "").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

/// Waits for the end of a stream.
async fn drained(answer: Response<Body>) {
    let mut events = answer.into_body().into_data_stream();
    let all = async { while let Some(Ok(_)) = events.next().await {} };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("the stream goes on");
}

#[tokio::test]
async fn a_stream_ends_with_the_token_and_with_the_session() {
    let world = World::new(Fake::default());
    let token = world.token(Role::Auditor);
    let path = "/api/v1/events";
    let stream = world.ask(&Method::GET, path, Some(&token), "").await;
    assert_eq!(stream.status(), StatusCode::OK);
    assert!(world.console.accounts.revoke_token("auditor").unwrap());
    drained(stream).await;

    // A person who logs out, and one who is removed.
    for removed in [false, true] {
        let accounts = &world.console.accounts;
        let now = crate::console::now_ms();
        let code = invite(accounts, "ada", Role::Approver, now).unwrap();
        let hash = crate::codes::hash(code.as_str());
        let ada = accounts
            .accept(&hash, "u1", (&format!("k{removed}"), "{}"), now)
            .unwrap()
            .unwrap();
        let cookie = world.console.sessions.begin(&ada.id, now).unwrap();
        let request = Request::builder()
            .uri(path)
            .header("host", HOST)
            .header("cookie", format!("agentwall-console={}", cookie.as_str()))
            .body(Body::empty())
            .unwrap();
        let routes = router(Arc::clone(&world.console));
        let stream = routes.oneshot(request).await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        match removed {
            true => assert!(accounts.remove("ada").unwrap()),
            false => world.console.sessions.end(cookie.as_str()),
        }
        drained(stream).await;
    }
}

#[tokio::test]
async fn it_ends_whatever_is_connected() {
    let world = World::new(Fake::default());
    let token = world.token(Role::Auditor);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(crate::serve(
        vec![listener],
        Arc::clone(&world.console),
        async move { drop(ended.await) },
    ));
    let head = format!("Host: {HOST}\r\nAuthorization: Bearer {token}\r\n");
    let body = "Content-Type: application/json\r\nContent-Length: 10\r\n";
    let mut open = Vec::new();
    for request in [
        // Nothing, half a head, half a body, a stream.
        String::new(),
        "GET /api".to_owned(),
        format!("POST /api/v1/questions/api%3A1/reject HTTP/1.1\r\n{head}{body}\r\n{{"),
        format!("GET /api/v1/events HTTP/1.1\r\n{head}\r\n"),
    ] {
        let mut one = tokio::net::TcpStream::connect(address).await.unwrap();
        one.write_all(request.as_bytes()).await.unwrap();
        open.push(one);
    }
    let mut answer = [0; 15];
    let stream = open.last_mut().unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let since = Instant::now();
    end.send(()).unwrap();
    tokio::time::timeout(PATIENCE, served)
        .await
        .expect("it goes on")
        .unwrap();
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_token_that_is_wrong_is_nobody_whatever_comes_with_it() {
    let world = World::new(Fake::default());
    let cookie = world
        .console
        .sessions
        .begin("u1", crate::console::now_ms())
        .unwrap();
    for value in ["Bearer awc_x", "Bearer ", "Basic eDp5", "awc_x"] {
        let request = Request::builder()
            .uri("/api/v1/agents")
            .header("host", HOST)
            .header("authorization", value)
            .header("cookie", format!("agentwall-console={}", cookie.as_str()))
            .body(Body::empty())
            .unwrap();
        let answer = router(Arc::clone(&world.console))
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{value}");
    }
}

#[test]
fn an_origin_that_passkeys_do_not_work_for_is_refused() {
    for (origin, good) in [
        ("http://localhost:8770", true),
        ("https://console.example", true),
        ("http://console.example", false),
        ("http://localhost.evil.example", false),
        ("https://127.0.0.1:8770", false),
        ("console", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&dir.path().join("c.db")).unwrap();
        let config = Config {
            origin: origin.into(),
            hosts: vec![],
        };
        let made = Console::new(config, Arc::new(Fake::default()), accounts);
        assert_eq!(made.is_ok(), good, "{origin}");
    }
}
