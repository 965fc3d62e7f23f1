//! What a gateway does without a policy of its own.

use std::sync::Arc;

use agentwall_policy::{Layer, LoadError, Policy, Source, Variables, load};

/// Its text.
pub const TEXT: &str = include_str!("../policy.yaml");

/// Reading is allowed, a person is asked about what may change something, what was granted is allowed, and both are bounded.
///
/// # Errors
/// None that the tests would not have found.
pub fn built_in() -> Result<Arc<Policy>, LoadError> {
    let source = Source::new("built-in gateway policy", TEXT, Layer::User);
    load(&[source], &Variables::default()).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Action, Effect, Resource, Subject, Verb};
    use serde_json::json;

    use super::*;

    #[test]
    fn it_loads_and_says_what_it_is_said_to() {
        let policy = built_in().unwrap();
        for (verb, resource, args, effect, rule) in [
            (
                Verb::HttpRequest,
                "https://a/b",
                json!({ "method": "GET" }),
                Effect::Allow,
                Some("read"),
            ),
            (
                Verb::HttpRequest,
                "https://a/b",
                json!({ "method": "HEAD" }),
                Effect::Allow,
                Some("read"),
            ),
            (
                Verb::HttpRequest,
                "https://a/b",
                json!({ "method": "POST" }),
                Effect::Ask,
                Some("write"),
            ),
            (
                Verb::HttpRequest,
                "https://a/b",
                json!({ "method": "get" }),
                Effect::Ask,
                Some("write"),
            ),
            (
                Verb::HttpRequest,
                "https://a/b",
                json!(null),
                Effect::Ask,
                Some("write"),
            ),
            (
                Verb::ApiCall,
                "capability:transfer",
                json!({}),
                Effect::Allow,
                Some("granted"),
            ),
            (
                Verb::ToolCall,
                "mcp:a/b",
                json!({}),
                Effect::Ask,
                Some("tools"),
            ),
        ] {
            let mut action = Action::new(
                Subject::agent("h/a"),
                verb,
                Resource::Named(resource.into()),
            );
            action.facts.args = args.clone();
            let decision = policy.decide(&action);
            assert_eq!(
                (decision.effect, decision.rule.as_deref()),
                (effect, rule),
                "{verb} {args}"
            );
        }
        assert_eq!(policy.budgets().len(), 1);
        assert_eq!(policy.risk().deny_at, Some(90));
    }
}
