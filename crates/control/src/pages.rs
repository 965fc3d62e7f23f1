//! The pages. What an agent chose is shown with every control, bidirectional and invisible character spelled out and
//! marked, so that it cannot pass for another text.

use std::os::unix::ffi::OsStrExt as _;

use agentwall_action::{Resource, escape_text};
use agentwall_policy::glob_escape;
use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    api::{Id, Shared, Who},
    console::{Caller, How, now_ms},
    host::PendingAsk,
    problem::Problem,
    shapes::{Question, QuestionDetail, Reach},
};

/// The questions that wait.
pub(crate) async fn list(State(console): Shared, Extension(caller): Who) -> Response {
    let waiting = match console.ask(|host| host.waiting()).await {
        Ok(waiting) => waiting,
        Err(problem) => return failed(&caller, problem),
    };
    let shown: Vec<String> = waiting
        .asks
        .iter()
        .map(|a| format!("{} {}", a.id, a.digest))
        .collect();
    let content = html! {
        main data-page="list" data-shown=(serde_json::json!(shown)) data-now=(now_ms()) {
            h1 { "Waiting for you" }
            @for text in &waiting.trouble { p.warning { (visible(text)) } }
            @if waiting.asks.is_empty() {
                p.empty { "Nothing waits. This page shows a question as soon as one is asked." }
            }
            ol.questions { @for ask in &waiting.asks { li { (card(ask)) } } }
        }
    };
    page("Waiting for you", Some(&caller), content).into_response()
}

fn card(ask: &PendingAsk) -> Markup {
    let question = Question::of(ask);
    html! {
        a.card href={ "/questions/" (path(&question.id)) } {
            span.verb { (question.verb) }
            span.object { (visible(&question.object)) }
            span.what { (visible(&question.what)) }
            span.line { (visible(&question.agent)) " · " (visible(&question.id)) @if question.risk > 0 { " · risk " (question.risk) } }
            span.left data-expires=(question.expires_ms) {}
        }
    }
}

/// One question.
pub(crate) async fn question(
    State(console): Shared,
    Extension(caller): Who,
    Id(id): Id,
) -> Response {
    let ask = match console.question(&id).await {
        Ok(ask) => ask,
        Err(problem) => return failed(&caller, problem),
    };
    let answers = caller
        .role
        .is_some_and(|role| role.may(crate::access::Need::Answer));
    let detail = QuestionDetail::of(&ask);
    let q = &detail.question;
    let content = html! {
        main data-page="question" data-id=(q.id) data-path={ "/api/v1/questions/" (path(&q.id)) }
            data-digest=(q.digest) data-now=(now_ms()) {
            p.back { a href="/" { "All questions" } }
            h1 { span.verb { (q.verb) } " " span.object { (visible(&q.object)) } }
            p.left data-expires=(q.expires_ms) {}
            (facts(q))
            @if let Some(before) = &detail.before {
                section {
                    h2 { "What is another than in question " (visible(&before.id)) }
                    @if before.changes.is_empty() { p { "Nothing: the same call again." } }
                    @else { (differences(&before.changes)) }
                }
            }
            section {
                h2 { "What an answer is bound to" }
                @if let Some(text) = &detail.canonical {
                    pre.canonical { (visible(text)) }
                }
                dl {
                    @if let Some(sha256) = &detail.canonical_sha256 { dt { "its SHA-256" } dd.hash { (sha256) } }
                    dt { "binding" } dd.hash { (q.digest) } dt { "policy" } dd.hash { (visible(&q.policy)) }
                }
            }
            @if answers { (answer(q, &as_pattern(&ask.action.resource))) }
            p.warning #trouble role="status" {}
            p #said role="status" {}
        }
    };
    page(
        &format!("Question {}", escape_text(&q.id)),
        Some(&caller),
        content,
    )
    .into_response()
}

fn facts(q: &Question) -> Markup {
    html! {
        dl.facts {
            dt { "call" } dd { (visible(&q.what)) @if let Some(pid) = q.pid { " (process " (pid) ")" } }
            dt { "agent" } dd { (visible(&q.agent)) }
            dt { "from" } dd { (visible(&q.session)) }
            @if !q.arguments.is_null() { dt { "arguments" } dd { code { (visible(&q.arguments.to_string())) } } }
            dt { "rule" } dd { @match &q.rule { Some(rule) => (visible(rule)), None => "no rule: the default, or the risk" } }
            dt { "reason" } dd { (visible(&q.reason)) }
            @if q.risk > 0 || !q.risks.is_empty() {
                dt { "risk" } dd { (q.risk) ul { @for text in &q.risks { li { (visible(text)) } } } }
            }
        }
    }
}

fn differences(changes: &[crate::changes::Change]) -> Markup {
    html! {
        table.changes {
            thead { tr { th { "field" } th { "before" } th { "now" } } }
            tbody { @for change in changes { tr {
                th { (visible(&change.field)) }
                td.before { (visible(change.before.as_deref().unwrap_or("absent"))) }
                td.now { (visible(change.now.as_deref().unwrap_or("absent"))) }
            } } }
        }
    }
}

/// The one object as a pattern (docs/policy.md): it matches just that.
fn as_pattern(resource: &Resource) -> String {
    let text = match resource {
        Resource::Named(name) => glob_escape(name.as_bytes()),
        Resource::Path(path) => glob_escape(path.as_bytes()),
        Resource::Unix(path) => format!("unix:{}", glob_escape(path.as_os_str().as_bytes())),
        other => other.to_string(),
    };
    // Patterns know these escapes, and a backslash is escaped already.
    escape_text(&text).replace("\\\\", "\\")
}

/// What an answer that stands for others does not look at.
const NOT_BOUND: &str = "For the session binds the object and the arguments, with the method where there is one; headers, \
     and a body that gives no arguments, may differ. A pattern binds the object alone: method, arguments, headers and \
     body may differ.";

fn answer(q: &Question, pattern: &str) -> Markup {
    let reach = |reach: Reach| match reach {
        Reach::Once => ("once", "this once"),
        Reach::Session => ("session", "this, for the whole session (task)"),
        Reach::Pattern => (
            "pattern",
            "all that a pattern matches, for the whole session",
        ),
    };
    html! {
        section.answer {
            h2 { "Your answer" }
            fieldset {
                legend { "Allow" }
                @for (at, (value, text)) in q.scopes.iter().map(|r| reach(*r)).enumerate() {
                    label { input type="radio" name="scope" value=(value) checked[at == 0]; " " (text) }
                }
                @if q.scopes.len() > 1 { p.small { (NOT_BOUND) } }
                @if q.scopes.contains(&Reach::Pattern) {
                    div #pattern-box hidden {
                        label for="pattern" { "Resource pattern" }
                        input #pattern type="text" value=(pattern) maxlength="2000" spellcheck="false" autocomplete="off";
                        p #pattern-said {}
                        ul #pattern-matches {}
                    }
                }
                button #approve.primary type="button" { "Approve with your passkey" }
            }
            fieldset {
                legend { "Refuse" }
                label for="reason" { "Why, for the agent to read" }
                input #reason type="text" maxlength="1000" autocomplete="off";
                button #reject type="button" { "Reject" }
            }
        }
    }
}

/// The page that asks for a passkey.
pub(crate) async fn login() -> Markup {
    let content = html! {
        main data-page="login" {
            h1 { "AgentWall" }
            p { "What agents on this host wait for is answered here." }
            button #login.primary type="button" { "Log in with a passkey" }
            p #said role="status" {}
            p.small { "No passkey here yet? " code { "agentwall serve invite" } " on the host prints a link that registers one." }
        }
    };
    page("Log in", None, content)
}

/// The page of a link that lets somebody in. The code is behind `#`, which browsers send to nobody.
pub(crate) async fn enrol() -> Markup {
    let content = html! {
        main data-page="enrol" {
            h1 { "Register a passkey" }
            p { "It stays in your device or security key, and is asked for at each login and each approval." }
            button #enrol.primary type="button" { "Register" }
            p #said role="status" {}
        }
    };
    page("Register a passkey", None, content)
}

fn failed(caller: &Caller, problem: Problem) -> Response {
    let status = problem.status();
    let text = match status {
        StatusCode::NOT_FOUND => {
            "This question is not open any more: it was answered, or nobody answered in time."
        }
        _ => "The console cannot show this now.",
    };
    let content = html! {
        main data-page="none" {
            p.back { a href="/" { "All questions" } }
            h1 { (text) }
        }
    };
    (status, page("Not open", Some(caller), content)).into_response()
}

fn page(title: &str, caller: Option<&Caller>, content: Markup) -> Markup {
    let csrf = caller.and_then(|c| match &c.how {
        How::Session { csrf, .. } => Some(csrf.as_str()),
        _ => None,
    });
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(csrf) = csrf { meta name="csrf" content=(csrf); }
                title { (title) " · AgentWall" }
                link rel="stylesheet" href="/assets/console.css";
                link rel="icon" href="data:,";
                script src="/assets/console.js" defer {}
            }
            body {
                @if let Some(caller) = caller {
                    header { a.brand href="/" { "AgentWall" } span.who { (visible(caller.by.trim_start_matches("account:"))) }
                        button #logout type="button" { "Log out" } }
                }
                (content)
            }
        }
    }
}

/// Text that somebody else chose. What cannot be seen is spelled out and marked; all else stays as it is.
fn visible(text: &str) -> Markup {
    let mut plain = String::new();
    let mut parts = Vec::new();
    for c in text.chars() {
        let escaped = escape_text(c.encode_utf8(&mut [0; 4]));
        if escaped.chars().eq([c]) || c == '\\' {
            plain.push(c);
        } else {
            parts.push(html! { (std::mem::take(&mut plain)) span.odd { (escaped) } });
        }
    }
    parts.push(html! { (plain) });
    PreEscaped(parts.into_iter().map(|p| p.0).collect())
}

/// An id as a segment of a path (RFC 3986): everything that is not unreserved is escaped.
fn path(id: &str) -> String {
    let mut out = String::new();
    for b in id.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b))
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Action, Decision, Effect, Subject, Verb};
    use agentwall_engine::{Grant, Scope};

    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelled_out_and_markup_is_text() {
        let shown = visible("a\u{202e}b\u{200b}<script>\"\\n\n").0;
        assert!(
            shown.contains(r#"<span class="odd">\u{202e}</span>"#),
            "{shown}"
        );
        assert!(
            shown.contains(r#"<span class="odd">\u{200b}</span>"#),
            "{shown}"
        );
        assert!(shown.contains(r#"<span class="odd">\n</span>"#), "{shown}");
        assert!(
            shown.contains("&lt;script&gt;&quot;\\n") && !shown.contains('\u{202e}'),
            "{shown}"
        );
    }

    #[test]
    fn the_pattern_of_an_object_matches_it_and_no_other() {
        let decision = Decision {
            effect: Effect::Ask,
            rule: None,
            reason: String::new(),
            hint: Default::default(),
            monitors: vec![],
            errors: vec![],
            policy: "p".into(),
        };
        let named = |text: &str| (Verb::HttpRequest, Resource::Named(text.into()));
        let path = |text: &str| (Verb::FileWrite, Resource::path(text));
        for (what, others) in [
            (
                named("http://x/a*"),
                vec![named("http://x/ab"), named("http://x/a/b")],
            ),
            (
                named("http://x/[ab]{c,d}\\\u{202e}"),
                vec![named("http://x/ac\\\u{202e}")],
            ),
            (path("/w/a?[1]"), vec![path("/w/ab1"), path("/w/a?1")]),
        ] {
            let action = |resource| Action::new(Subject::agent("a"), what.0, resource);
            let pattern = as_pattern(&what.1);
            let asked = action(what.1.clone());
            let grant = Grant::new(&asked, &decision, Scope::Pattern(pattern.clone())).unwrap();
            assert!(grant.covers(&asked, &decision), "{pattern}");
            for (_, other) in others {
                assert!(
                    !grant.covers(&action(other.clone()), &decision),
                    "{pattern}: {other}"
                );
            }
        }
    }

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(path("api:3"), "api%3A3");
        assert_eq!(path("../x?y#z"), "..%2Fx%3Fy%23z");
    }
}
