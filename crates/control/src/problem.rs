//! What a client is told when something is not done: a problem of RFC 9457, with the members of a gateway's answers.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::host::HostError;

/// Before the kind in `type`, as at gateways.
const TYPE: &str = "urn:agentwall:problem:";

/// An error (RFC 9457).
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:agentwall:problem:` and a short name of the kind.
    r#type: String,
    /// The kind, for a person.
    title: String,
    /// The status of the answer.
    status: u16,
    /// What was expected, what was found.
    detail: String,
}

impl Problem {
    /// A problem of a kind such as `no-such-question`.
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Problem {
        let mut title = kind.replace('-', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Problem {
            r#type: format!("{TYPE}{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// The request is not understood.
    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "invalid-request", detail)
    }

    /// Nobody waits under that id.
    pub fn no_question() -> Problem {
        let text = "no such question is open: it was answered, it expired, or the id is wrong";
        Problem::new(StatusCode::NOT_FOUND, "no-such-question", text)
    }

    /// Something in the console itself failed; what, is said on its terminal, not to the client.
    pub fn internal(e: &dyn std::fmt::Display) -> Problem {
        let e = agentwall_action::escape_text(&e.to_string());
        eprintln!("agentwall: the console failed: {e}");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the console cannot do this now; its terminal says why",
        )
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<HostError> for Problem {
    fn from(error: HostError) -> Problem {
        match error {
            HostError::Refused(text) => Problem::new(StatusCode::CONFLICT, "refused", text),
            HostError::Unavailable(text) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text)
            }
        }
    }
}

impl From<agentwall_store::StoreError> for Problem {
    fn from(error: agentwall_store::StoreError) -> Problem {
        Problem::internal(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of texts always has a form.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status(), kind, body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_inside_is_not_told_to_the_client() {
        let problem = Problem::internal(&"/home/ada/console.db is full");
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!problem.detail.contains("console.db"), "{}", problem.detail);
    }
}
