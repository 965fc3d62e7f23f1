//! Who may do what: one table of all routes.
//!
//! A request is let through by its row alone. What is in no row is refused, so a handler that is added without one is out of
//! reach.

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// What an account or a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Sees questions and answers them.
    Approver,
    /// Sees questions, agents and the ledger; changes nothing.
    Auditor,
    /// Sees agents and gateways, ends agents.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [Role::Admin, Role::Approver, Role::Auditor, Role::Operator];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Approver => "approver",
            Role::Auditor => "auditor",
            Role::Operator => "operator",
        }
    }

    /// The role of that name.
    pub fn of(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// Whether it has what a route needs.
    pub const fn may(self, need: Need) -> bool {
        match need {
            Need::Nothing | Need::Agents => true,
            Need::Questions => !matches!(self, Role::Operator),
            Need::Answer => matches!(self, Role::Admin | Role::Approver),
            Need::Revoke => matches!(self, Role::Admin | Role::Operator),
            Need::Ledger => matches!(self, Role::Admin | Role::Auditor),
        }
    }
}

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nobody has to be known.
    Nothing,
    /// To see questions.
    Questions,
    /// To answer them.
    Answer,
    /// To see agents and gateways.
    Agents,
    /// To end agents.
    Revoke,
    /// To read the ledger.
    Ledger,
}

/// Every route, and what it needs.
pub const ROUTES: &[(Method, &str, Need)] = &[
    (Method::GET, "/", Need::Questions),
    (Method::GET, "/questions/{id}", Need::Questions),
    (Method::GET, "/login", Need::Nothing),
    (Method::GET, "/enrol", Need::Nothing),
    (Method::GET, "/assets/{file}", Need::Nothing),
    (Method::POST, "/login/start", Need::Nothing),
    (Method::POST, "/login/finish", Need::Nothing),
    (Method::POST, "/enrol/start", Need::Nothing),
    (Method::POST, "/enrol/finish", Need::Nothing),
    (Method::POST, "/logout", Need::Agents),
    (Method::GET, "/api/v1/health", Need::Nothing),
    (Method::GET, "/api/v1/openapi.json", Need::Nothing),
    (Method::GET, "/api/v1/questions", Need::Questions),
    (Method::GET, "/api/v1/questions/{id}", Need::Questions),
    (Method::GET, "/api/v1/questions/{id}/pattern", Need::Answer),
    (
        Method::POST,
        "/api/v1/questions/{id}/assertion",
        Need::Answer,
    ),
    (Method::POST, "/api/v1/questions/{id}/approve", Need::Answer),
    (Method::POST, "/api/v1/questions/{id}/reject", Need::Answer),
    (Method::GET, "/api/v1/events", Need::Questions),
    (Method::GET, "/api/v1/agents", Need::Agents),
    (Method::POST, "/api/v1/agents/{id}/revoke", Need::Revoke),
    (Method::GET, "/api/v1/gateways", Need::Agents),
    (Method::GET, "/api/v1/decisions", Need::Ledger),
];

/// What a route needs; `None` for what is in no row.
pub fn need(method: &Method, path: &str) -> Option<Need> {
    // A HEAD is a GET without the content (RFC 9110, section 9.3.2).
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let row = ROUTES.iter().find(|(m, p, _)| m == method && *p == path);
    row.map(|(_, _, need)| *need)
}

/// Which methods a path has.
pub fn methods(path: &str) -> Vec<&'static str> {
    let rows = ROUTES.iter().filter(|(_, p, _)| *p == path);
    rows.flat_map(|(method, _, _)| match *method {
        Method::GET => vec!["GET", "HEAD"],
        _ => vec!["POST"],
    })
    .collect()
}
