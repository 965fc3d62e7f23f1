//! Passkeys (WebAuthn Level 3): registration, login, and the assertion that an approval needs.
//!
//! User verification is always required: a finger, a face or a PIN, which a program that drives the browser does not have.
//! Challenges are random and kept here; an assertion for an approval is kept together with what it is for
//! ([`Purpose`]), so that it is good for nothing else. All of it is in memory, and used once.

use std::{collections::HashMap, sync::Mutex};

use agentwall_engine::Scope;
use agentwall_store::{Account, Accounts, Key, StoreError};
use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use webauthn_rs::prelude::{
    AuthenticationResult, CreationChallengeResponse, Passkey, PasskeyAuthentication,
    PasskeyRegistration, PublicKeyCredential, RegisterPublicKeyCredential,
    RequestChallengeResponse, Url, Uuid, Webauthn, WebauthnBuilder, WebauthnError,
};

use crate::{
    codes::{Code, hash},
    problem::Problem,
};

/// How long a person may take, in milliseconds.
const PATIENCE_MS: i64 = 120_000;
/// How many ceremonies of people who are not known yet are open at most.
const MOST: usize = 64;

/// What exactly an approval's assertion is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// The question.
    pub question: String,
    /// What it was bound to when it was shown.
    pub digest: String,
    /// How far the answer reaches.
    pub scope: Scope,
}

/// An assertion that was asked for.
#[derive(Debug)]
pub struct Ceremony {
    state: PasskeyAuthentication,
    purpose: Purpose,
    until: i64,
}

/// A ceremony of somebody who is not known yet.
#[derive(Debug)]
enum Opening {
    Login(Box<PasskeyAuthentication>),
    Enrol {
        state: Box<PasskeyRegistration>,
        code: String,
        id: Uuid,
    },
}

/// A passkey that was checked, of somebody who was invited.
#[derive(Debug)]
pub struct Enrolment {
    /// What the person will be called.
    pub name: String,
    invitation: [u8; 32],
    id: String,
    key: String,
    record: String,
}

impl Enrolment {
    /// Keeps it: the invitation is used up, the account is there.
    pub fn accept(&self, accounts: &Accounts, now: i64) -> Result<Account, Problem> {
        let key = (self.key.as_str(), self.record.as_str());
        let made = accounts.accept(&self.invitation, &self.id, key, now)?;
        made.ok_or_else(no_invitation)
    }
}

/// The relying party.
#[derive(Debug)]
pub struct Passkeys {
    party: Webauthn,
    open: Mutex<HashMap<String, (i64, Opening)>>,
}

impl Passkeys {
    /// For pages of this origin alone. Its host is the relying party's id.
    pub fn new(origin: &str) -> Result<Passkeys, WebauthnError> {
        let url = Url::parse(origin).map_err(|_| WebauthnError::Configuration)?;
        let id = url.host_str().ok_or(WebauthnError::Configuration)?;
        let builder = WebauthnBuilder::new(id, &url)?.rp_name("AgentWall");
        Ok(Passkeys {
            party: builder.build()?,
            open: Mutex::default(),
        })
    }

    /// Begins the registration of who was invited.
    pub fn enrol(
        &self,
        accounts: &Accounts,
        code: &str,
        now: i64,
    ) -> Result<(String, CreationChallengeResponse), Problem> {
        let invited = accounts.invitation(&hash(code), now)?;
        let name = invited.ok_or_else(no_invitation)?.name;
        let known = accounts.named(&name)?;
        let id = known.as_ref().and_then(|a| Uuid::parse_str(&a.id).ok());
        let id = id.unwrap_or_else(Uuid::new_v4);
        let (challenge, state) = self
            .party
            .start_passkey_registration(id, &name, &name, None)
            .map_err(|e| Problem::internal(&e))?;
        let ceremony = self.keep(
            Opening::Enrol {
                state: Box::new(state),
                code: code.to_owned(),
                id,
            },
            now,
        )?;
        Ok((ceremony, challenge))
    }

    /// Checks the new passkey, and that the invitation holds. Nothing is kept yet.
    pub fn made(
        &self,
        accounts: &Accounts,
        ceremony: &str,
        answer: &RegisterPublicKeyCredential,
        now: i64,
    ) -> Result<Enrolment, Problem> {
        let Some(Opening::Enrol { state, code, id }) = self.take(ceremony, now) else {
            return Err(over());
        };
        let key = (self.party.finish_passkey_registration(answer, &state)).map_err(refused)?;
        let invitation = hash(&code);
        let invited = accounts.invitation(&invitation, now)?;
        Ok(Enrolment {
            name: invited.ok_or_else(no_invitation)?.name,
            invitation,
            id: id.to_string(),
            key: URL_SAFE_NO_PAD.encode(key.cred_id()),
            record: record(&key)?,
        })
    }

    /// Begins a login with any passkey that is known.
    pub fn login(
        &self,
        accounts: &Accounts,
        now: i64,
    ) -> Result<(String, RequestChallengeResponse), Problem> {
        let (challenge, state) = self.challenge(accounts.keys(None)?)?;
        let ceremony = self.keep(Opening::Login(Box::new(state)), now)?;
        Ok((ceremony, challenge))
    }

    /// Ends it: whose passkey it was.
    pub fn logged_in(
        &self,
        accounts: &Accounts,
        ceremony: &str,
        answer: &PublicKeyCredential,
        now: i64,
    ) -> Result<Account, Problem> {
        let Some(Opening::Login(state)) = self.take(ceremony, now) else {
            return Err(over());
        };
        let id = self.verify(accounts, None, answer, &state)?;
        accounts.account(&id)?.ok_or_else(no_account)
    }

    /// Asks somebody for an assertion that an answer needs.
    pub fn ask(
        &self,
        accounts: &Accounts,
        account: &str,
        purpose: Purpose,
        now: i64,
    ) -> Result<(Ceremony, RequestChallengeResponse), Problem> {
        let (challenge, state) = self.challenge(accounts.keys(Some(account))?)?;
        let ceremony = Ceremony {
            state,
            purpose,
            until: now + PATIENCE_MS,
        };
        Ok((ceremony, challenge))
    }

    /// Checks that the assertion is this person's, of now, and for this answer.
    pub fn asserted(
        &self,
        accounts: &Accounts,
        account: &str,
        ceremony: &Ceremony,
        purpose: &Purpose,
        answer: &PublicKeyCredential,
        now: i64,
    ) -> Result<(), Problem> {
        if ceremony.until <= now {
            return Err(over());
        }
        if ceremony.purpose != *purpose {
            return Err(needed(
                "the assertion is for another question, another state of it, or another reach",
            ));
        }
        self.verify(accounts, Some(account), answer, &ceremony.state)
            .map(drop)
    }

    fn challenge(
        &self,
        keys: Vec<Key>,
    ) -> Result<(RequestChallengeResponse, PasskeyAuthentication), Problem> {
        let keys: Vec<Passkey> = keys
            .iter()
            .map(|key| serde_json::from_str(&key.record).map_err(|e| Problem::internal(&e)))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            let text = "no passkey is known here; 'agentwall serve invite' makes a link that registers one";
            return Err(Problem::new(StatusCode::CONFLICT, "no-passkey", text));
        }
        let begun = self.party.start_passkey_authentication(&keys);
        begun.map_err(|e| Problem::internal(&e))
    }

    /// Whose passkey it is; its counter is kept. The signature was made for the challenge of `state`, at our origin, by
    /// a person whom the authenticator verified.
    fn verify(
        &self,
        accounts: &Accounts,
        account: Option<&str>,
        answer: &PublicKeyCredential,
        state: &PasskeyAuthentication,
    ) -> Result<String, Problem> {
        let result: AuthenticationResult = (self.party)
            .finish_passkey_authentication(answer, state)
            .map_err(refused)?;
        if !result.user_verified() {
            return Err(refused(WebauthnError::UserNotVerified));
        }
        let id = URL_SAFE_NO_PAD.encode(result.cred_id());
        // It may have been taken away since the challenge.
        let keys = accounts.keys(account)?;
        let key = keys.iter().find(|k| k.id == id).ok_or_else(no_account)?;
        let mut passkey: Passkey =
            serde_json::from_str(&key.record).map_err(|e| Problem::internal(&e))?;
        if passkey.update_credential(&result) == Some(true) {
            accounts.update_key(&id, &record(&passkey)?)?;
        }
        Ok(key.account.clone())
    }

    fn keep(&self, opening: Opening, now: i64) -> Result<String, StoreError> {
        let id = Code::new()?.as_str().to_owned();
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        open.retain(|_, (until, _)| *until > now);
        // A stranger who begins many makes others begin again, and no more.
        if open.len() >= MOST
            && let Some(oldest) = open.iter().min_by_key(|(_, (until, _))| *until)
        {
            let oldest = oldest.0.clone();
            open.remove(&oldest);
        }
        open.insert(id.clone(), (now + PATIENCE_MS, opening));
        Ok(id)
    }

    fn take(&self, id: &str, now: i64) -> Option<Opening> {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let (until, opening) = open.remove(id)?;
        (until > now).then_some(opening)
    }
}

/// An approval that has no assertion, or not this one.
pub fn needed(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "assertion-required", detail)
}

fn record(key: &Passkey) -> Result<String, Problem> {
    serde_json::to_string(key).map_err(|e| Problem::internal(&e))
}

fn no_invitation() -> Problem {
    let text = "the link was used, or is too old; 'agentwall serve invite' makes another one";
    Problem::new(StatusCode::FORBIDDEN, "no-invitation", text)
}

fn no_account() -> Problem {
    let text = "the passkey belongs to nobody here";
    Problem::new(StatusCode::FORBIDDEN, "no-account", text)
}

fn over() -> Problem {
    let text = "it took too long, or was answered before; try again";
    Problem::new(StatusCode::FORBIDDEN, "ceremony-over", text)
}

fn refused(e: WebauthnError) -> Problem {
    let text = format!("the passkey was not accepted: {e}");
    Problem::new(StatusCode::FORBIDDEN, "passkey-refused", text)
}
