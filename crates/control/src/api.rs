//! The REST interface, its description, and the routes of the pages.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agentwall_action::{Resource, escape_text};
use agentwall_engine::{Grant, Scope};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::de::DeserializeOwned;
use utoipa::{
    Modify, OpenApi, ToSchema as _,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        response::Response as Described,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use webauthn_rs::prelude::PublicKeyCredential;

use crate::{
    access::Need,
    assets,
    console::{Caller, Console, How, now_ms},
    guard,
    host::{Answer, PendingAsk},
    login, pages,
    passkeys::{Purpose, needed},
    problem::Problem,
    shapes::{
        Agents, Approve, Challenge, Decisions, DecisionsQuery, Done, Gateways, Health,
        PatternPreview, PatternQuery, Question, QuestionDetail, Questions, Reject,
    },
};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 << 10;
/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many decisions a page has when the request does not say.
const PAGE: u16 = 50;
/// The most that it has.
const LONGEST_PAGE: u16 = 200;
/// How many decisions a pattern is tried on.
const LOOKED_AT: usize = 200;

type Answered<T> = Result<Json<T>, Problem>;
pub(crate) type Shared = State<Arc<Console>>;
pub(crate) type Who = Extension<Caller>;

/// Everything that a console answers.
pub fn router(console: Arc<Console>) -> Router {
    let access = middleware::from_fn_with_state(Arc::clone(&console), guard::access);
    let outer = middleware::from_fn_with_state(Arc::clone(&console), guard::outer);
    // What each needs is in `access::ROUTES`.
    Router::new()
        .route("/", get(pages::list))
        .route("/questions/{id}", get(pages::question))
        .route("/login", get(pages::login))
        .route("/enrol", get(pages::enrol))
        .route("/assets/{file}", get(assets::file))
        .route("/login/start", post(login::start))
        .route("/login/finish", post(login::finish))
        .route("/enrol/start", post(login::enrol_start))
        .route("/enrol/finish", post(login::enrol_finish))
        .route("/logout", post(login::logout))
        .route("/api/v1/health", get(health))
        .route("/api/v1/openapi.json", get(description))
        .route("/api/v1/questions", get(questions))
        .route("/api/v1/questions/{id}", get(question))
        .route("/api/v1/questions/{id}/pattern", get(pattern))
        .route("/api/v1/questions/{id}/assertion", post(assertion))
        .route("/api/v1/questions/{id}/approve", post(approve))
        .route("/api/v1/questions/{id}/reject", post(reject))
        .route("/api/v1/events", get(events))
        .route("/api/v1/agents", get(agents))
        .route("/api/v1/agents/{id}/revoke", post(revoke))
        .route("/api/v1/gateways", get(gateways))
        .route("/api/v1/decisions", get(decisions))
        // For these, methods that a path does not have are answered by the table as well.
        .route_layer(access)
        .fallback(nothing)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(outer)
        .with_state(console)
}

/// The description (OpenAPI 3.1).
pub fn openapi() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "AgentWall console",
        description = "What waits for a person on this host. Times are milliseconds since the Unix epoch."
    ),
    paths(health, questions, question, pattern, assertion, approve, reject, agents, revoke, gateways, decisions),
    components(schemas(Problem)),
    modifiers(&Tokens)
)]
struct Description;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let scheme = scheme.description(Some("agentwall serve token create"));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
        openapi.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
    }
}

/// The problems that every operation may answer with.
struct Problems;

impl utoipa::IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Described>> {
        let all = [
            ("400", "the request is not understood"),
            ("401", "who it is is not known"),
            (
                "403",
                "the role does not have this; or an assertion is missing",
            ),
            ("404", "no such question"),
            ("408", "the body did not come in time"),
            ("409", "it is not so any more, and nothing was done"),
            ("413", "the body is too long"),
            ("415", "the body is no application/json"),
            ("421", "the Host is another one"),
            (
                "503",
                "a gateway, a session or the ledger cannot be asked now; nothing was done",
            ),
        ];
        let described = all.map(|(status, text)| {
            let schema = Ref::from_schema_name(Problem::name());
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let response = ResponseBuilder::new()
                .description(text)
                .content("application/problem+json", content);
            (status.to_owned(), response.build().into())
        });
        described.into()
    }
}

#[utoipa::path(get, path = "/api/v1/health", security(()), responses((status = 200, body = Health), Problems))]
/// Whether the console answers.
async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn description() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi())
}

#[utoipa::path(get, path = "/api/v1/questions", responses((status = 200, body = Questions), Problems))]
/// The questions that wait, the oldest first.
async fn questions(State(console): Shared) -> Answered<Questions> {
    let waiting = console.ask(|host| host.waiting()).await?;
    Ok(Json(Questions {
        questions: waiting.asks.iter().map(Question::of).collect(),
        trouble: waiting.trouble,
    }))
}

#[utoipa::path(get, path = "/api/v1/questions/{id}", params(("id" = String, Path)),
    responses((status = 200, body = QuestionDetail), Problems))]
/// One question, with everything that an answer is bound to.
async fn question(State(console): Shared, Id(id): Id) -> Answered<QuestionDetail> {
    Ok(Json(QuestionDetail::of(&console.question(&id).await?)))
}

#[utoipa::path(get, path = "/api/v1/questions/{id}/pattern", params(("id" = String, Path), PatternQuery),
    responses((status = 200, body = PatternPreview), Problems))]
/// What a pattern would let through, of what this agent asked for lately.
async fn pattern(
    State(console): Shared,
    Id(id): Id,
    Asked(query): Asked<PatternQuery>,
) -> Answered<PatternPreview> {
    let waiting = console.ask(|host| host.waiting()).await?;
    let ask = waiting.question(&id)?;
    let scope = Scope::Pattern(query.pattern);
    let grant = match Grant::new(&ask.action, &ask.decision, scope) {
        Ok(grant) => grant,
        Err(e) => {
            return Ok(Json(PatternPreview {
                valid: false,
                problem: Some(escape_text(&e.to_string())),
                matches: Vec::new(),
                others: Vec::new(),
            }));
        }
    };
    let mut objects: BTreeSet<String> = (waiting.asks.iter())
        .filter(|other| {
            (&other.session, &other.name, other.action.verb)
                == (&ask.session, &ask.name, ask.action.verb)
        })
        .map(|other| other.action.resource.to_string())
        .collect();
    objects.extend(
        console
            .ask({
                let ask = ask.clone();
                move |host| Ok(earlier_objects(&ask, &host.decisions(None, LOOKED_AT)?))
            })
            .await?,
    );
    let (mut matches, mut others) = (Vec::new(), Vec::new());
    for text in objects {
        let same = text == ask.action.resource.to_string();
        let resource = match same {
            true => Ok(ask.action.resource.clone()),
            false => Resource::parse(ask.action.verb.family(), &text),
        };
        let Ok(resource) = resource else { continue };
        let other = agentwall_action::Action {
            resource,
            ..ask.action.clone()
        };
        match grant.covers(&other, &ask.decision) {
            true => matches.push(text),
            false => others.push(text),
        }
    }
    Ok(Json(PatternPreview {
        valid: true,
        problem: None,
        matches,
        others,
    }))
}

/// What the same agent did the same with, as the ledger has it.
fn earlier_objects(ask: &PendingAsk, entries: &[crate::host::LedgerEntry]) -> Vec<String> {
    let text = |entry: &serde_json::Value, pointer: &str| {
        entry
            .pointer(pointer)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let own = entries.iter().map(|e| &e.entry).filter(|entry| {
        text(entry, "/action/verb") == ask.action.verb.as_str()
            && (text(entry, "/session") == ask.session || text(entry, "/agent") == ask.name)
    });
    own.map(|entry| text(entry, "/action/resource")).collect()
}

#[utoipa::path(post, path = "/api/v1/questions/{id}/assertion", params(("id" = String, Path)), request_body = Approve,
    responses((status = 200, body = Challenge), Problems))]
/// Asks for the assertion that an approval needs in a browser; it is for exactly this answer.
async fn assertion(
    State(console): Shared,
    Extension(caller): Who,
    Id(id): Id,
    Body(body): Body<Approve>,
) -> Answered<Challenge> {
    let How::Session {
        cookie, account, ..
    } = &caller.how
    else {
        return Err(needed(
            "assertions are for sessions of a browser; a token approves without one",
        ));
    };
    let purpose = purpose(&console, &id, &body).await?;
    let (ceremony, challenge) =
        console
            .passkeys
            .ask(&console.accounts, account, purpose, now_ms())?;
    console.sessions.ask(cookie, ceremony);
    let options = serde_json::to_value(challenge).map_err(|e| Problem::internal(&e))?;
    Ok(Json(Challenge {
        public_key: options.get("publicKey").cloned().unwrap_or_default(),
    }))
}

/// What would be approved, if that is still what waits.
async fn purpose(console: &Console, id: &str, body: &Approve) -> Result<Purpose, Problem> {
    let scope = body.scope()?;
    let ask = console.question(id).await?;
    if ask.digest != body.digest {
        let text = "the question is another one by now: look at it again";
        return Err(Problem::new(StatusCode::CONFLICT, "question-changed", text));
    }
    Ok(Purpose {
        question: ask.id,
        digest: ask.digest,
        scope,
    })
}

#[utoipa::path(post, path = "/api/v1/questions/{id}/approve", params(("id" = String, Path)), request_body = Approve,
    responses((status = 200, body = Done), Problems))]
/// Approves a question, if it is still bound to what was shown.
async fn approve(
    State(console): Shared,
    Extension(caller): Who,
    Id(id): Id,
    Body(body): Body<Approve>,
) -> Answered<Done> {
    let purpose = purpose(&console, &id, &body).await?;
    let proof = match &caller.how {
        How::Session {
            cookie, account, ..
        } => {
            let ceremony = console.sessions.asked(cookie);
            let (Some(ceremony), Some(answer)) = (ceremony, body.assertion) else {
                return Err(needed(
                    "an approval needs a fresh assertion of a passkey, asked for at 'assertion'",
                ));
            };
            let answer: PublicKeyCredential = serde_json::from_value(answer).map_err(|e| {
                Problem::invalid(format!("'assertion' is no PublicKeyCredential: {e}"))
            })?;
            (console.passkeys).asserted(
                &console.accounts,
                account,
                &ceremony,
                &purpose,
                &answer,
                now_ms(),
            )?;
            "passkey"
        }
        how => how.proof(),
    };
    console
        .record("approve", &id, &caller.by, proof, Some(&purpose.digest))
        .await?;
    let answer = Answer::Approve {
        scope: purpose.scope,
        digest: purpose.digest,
    };
    let done = console.ask(move |host| host.answer(&id, &answer)).await?;
    Ok(Json(Done { done }))
}

#[utoipa::path(post, path = "/api/v1/questions/{id}/reject", params(("id" = String, Path)), request_body = Reject,
    responses((status = 200, body = Done), Problems))]
/// Rejects a question.
async fn reject(
    State(console): Shared,
    Extension(caller): Who,
    Id(id): Id,
    Body(body): Body<Reject>,
) -> Answered<Done> {
    let reason = body.reason()?;
    let ask = console.question(&id).await?;
    console
        .record(
            "reject",
            &id,
            &caller.by,
            caller.how.proof(),
            Some(&ask.digest),
        )
        .await?;
    let done = console
        .ask(move |host| host.answer(&id, &Answer::Reject { reason }))
        .await?;
    Ok(Json(Done { done }))
}

async fn events(State(console): Shared, Extension(caller): Who) -> Response {
    let over = console.over.subscribe();
    let listener = Arc::clone(&console);
    let still = move || listener.still_may(&caller, Need::Questions);
    console.feed.listen(over, still).into_response()
}

#[utoipa::path(get, path = "/api/v1/agents", responses((status = 200, body = Agents), Problems))]
/// The agents of the gateways that run.
async fn agents(State(console): Shared) -> Answered<Agents> {
    let agents = console.ask(|host| host.agents()).await?;
    Ok(Json(Agents { agents }))
}

#[utoipa::path(post, path = "/api/v1/agents/{id}/revoke", params(("id" = String, Path)),
    responses((status = 200, body = Done), Problems))]
/// Ends an agent, or a host with all its agents.
async fn revoke(State(console): Shared, Extension(caller): Who, Id(id): Id) -> Answered<Done> {
    console
        .record("revoke", &id, &caller.by, caller.how.proof(), None)
        .await?;
    let done = console.ask(move |host| host.revoke(&id)).await?;
    Ok(Json(Done { done }))
}

#[utoipa::path(get, path = "/api/v1/gateways", responses((status = 200, body = Gateways), Problems))]
/// The gateways that run.
async fn gateways(State(console): Shared) -> Answered<Gateways> {
    let gateways = console.ask(|host| host.gateways()).await?;
    Ok(Json(Gateways { gateways }))
}

#[utoipa::path(get, path = "/api/v1/decisions", params(DecisionsQuery), responses((status = 200, body = Decisions), Problems))]
/// Decisions of the ledger, the newest first.
async fn decisions(
    State(console): Shared,
    Asked(query): Asked<DecisionsQuery>,
) -> Answered<Decisions> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=LONGEST_PAGE).contains(&limit) {
        return Err(Problem::invalid(format!("'limit' is 1 to {LONGEST_PAGE}")));
    }
    let limit = usize::from(limit);
    let found = console
        .ask(move |host| host.decisions(query.before, limit))
        .await?;
    let next = found
        .last()
        .map(|e| e.index)
        .filter(|index| found.len() == limit && *index > 0);
    Ok(Json(Decisions {
        decisions: found.into_iter().map(Into::into).collect(),
        next,
    }))
}

async fn nothing() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-page",
        "there is nothing at this address",
    )
}

/// The id in a path.
pub(crate) struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(id)| Id(id))
            .map_err(|e| Problem::invalid(e.to_string()))
    }
}

/// What a query asks for.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(q)| Asked(q))
            .map_err(|e| Problem::invalid(e.body_text()))
    }
}

/// A body in JSON. Its Content-Type says so, which no form of another page can.
pub(crate) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        if !is_json(request.headers()) {
            let text = "expected Content-Type: application/json";
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                text,
            ));
        }
        let read = axum::body::Bytes::from_request(request, state);
        let read = tokio::time::timeout(PATIENCE, read).await;
        let bytes = read
            .map_err(|_| {
                let text = format!("a body takes at most {} s", PATIENCE.as_secs());
                Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", text)
            })?
            .map_err(|e| match e.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    let text = format!("a body has at most {MAX_BODY} bytes");
                    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", text)
                }
                _ => Problem::invalid(e.body_text()),
            })?;
        let read = serde_json::from_slice(&bytes);
        read.map(Body)
            .map_err(|e| Problem::invalid(format!("the body is not of the form expected: {e}")))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    kind.and_then(|k| k.split(';').next())
        .is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json"))
}
