//! Coming in and going out: an invitation becomes a passkey, a passkey a session.

use agentwall_store::Account;
use axum::{
    Extension, Json,
    extract::State,
    http::header,
    response::{AppendHeaders, IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use webauthn_rs::prelude::{PublicKeyCredential, RegisterPublicKeyCredential};

use crate::{
    api::{Body, Shared, Who},
    console::{Console, How, now_ms},
    problem::Problem,
};

/// A ceremony that has begun.
#[derive(Debug, Serialize)]
pub(crate) struct Begun {
    ceremony: String,
    #[serde(rename = "publicKey")]
    options: Value,
}

/// What `start` of a login takes: nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnrolStart {
    /// The invitation's code.
    code: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finish<T> {
    ceremony: String,
    credential: T,
}

/// Begins a login.
pub(crate) async fn start(
    State(console): Shared,
    Body(Start {}): Body<Start>,
) -> Result<Json<Begun>, Problem> {
    let (ceremony, challenge) = console.passkeys.login(&console.accounts, now_ms())?;
    begun(ceremony, &challenge)
}

/// Ends it: there is a session.
pub(crate) async fn finish(
    State(console): Shared,
    Body(body): Body<Finish<PublicKeyCredential>>,
) -> Result<Response, Problem> {
    let account = (console.passkeys).logged_in(
        &console.accounts,
        &body.ceremony,
        &body.credential,
        now_ms(),
    )?;
    recorded(&console, "login", &account.name, "passkey").await?;
    session(&console, &account)
}

/// Begins the registration of a passkey.
pub(crate) async fn enrol_start(
    State(console): Shared,
    Body(body): Body<EnrolStart>,
) -> Result<Json<Begun>, Problem> {
    let (ceremony, challenge) = console
        .passkeys
        .enrol(&console.accounts, &body.code, now_ms())?;
    begun(ceremony, &challenge)
}

/// Ends it: the passkey is known, and its owner logged in.
pub(crate) async fn enrol_finish(
    State(console): Shared,
    Body(body): Body<Finish<RegisterPublicKeyCredential>>,
) -> Result<Response, Problem> {
    let made = (console.passkeys).made(
        &console.accounts,
        &body.ceremony,
        &body.credential,
        now_ms(),
    )?;
    recorded(&console, "enrol", &made.name, "invitation").await?;
    let account = made.accept(&console.accounts, now_ms())?;
    session(&console, &account)
}

/// Ends the session.
pub(crate) async fn logout(State(console): Shared, Extension(caller): Who) -> impl IntoResponse {
    if let How::Session { cookie, .. } = &caller.how {
        console.sessions.end(cookie);
    }
    let gone = format!("{}=; Max-Age=0; {}", console.cookie(), attributes(&console));
    (
        AppendHeaders([(header::SET_COOKIE, gone)]),
        Json(Value::Null),
    )
}

fn begun(ceremony: String, challenge: &impl Serialize) -> Result<Json<Begun>, Problem> {
    let options = serde_json::to_value(challenge).map_err(|e| Problem::internal(&e))?;
    let options = options.get("publicKey").cloned().unwrap_or_default();
    Ok(Json(Begun { ceremony, options }))
}

/// Records who comes in, and how that was proved, before it is done.
async fn recorded(
    console: &Console,
    act: &'static str,
    name: &str,
    proof: &'static str,
) -> Result<(), Problem> {
    let by = format!("account:{name}");
    console.record(act, name, &by, proof, None).await
}

/// Begins a session.
fn session(console: &Console, account: &Account) -> Result<Response, Problem> {
    let cookie = console.sessions.begin(&account.id, now_ms())?;
    let value = format!(
        "{}={}; {}",
        console.cookie(),
        cookie.as_str(),
        attributes(console)
    );
    let cookie = AppendHeaders([(header::SET_COOKIE, value)]);
    Ok((cookie, Json(Value::Null)).into_response())
}

/// Scripts do not read it, other sites do not send it.
fn attributes(console: &Console) -> &'static str {
    match console.is_secure() {
        true => "Path=/; HttpOnly; SameSite=Strict; Secure",
        false => "Path=/; HttpOnly; SameSite=Strict",
    }
}
