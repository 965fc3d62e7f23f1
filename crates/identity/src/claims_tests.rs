//! Claims of other shapes. All tokens are well signed.

use serde_json::{Value, json};

use super::*;
use crate::{Expect, jws};

const NOW: i64 = 1_710_000_000;

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32]).expect("a key")
}

fn token(typ: Typ, header: &[(&str, Value)], claims: &Value) -> Jws {
    let claims = claims.as_object().expect("an object");
    Jws::parse(&jws::sign(&key(), typ, header, claims)).expect("a token")
}

/// `good` with one claim changed, or taken out if it is null.
fn with(good: &Value, name: &str, value: &Value) -> Value {
    let mut all = good.as_object().expect("an object").clone();
    match value {
        Value::Null => all.shift_remove(name),
        value => all.insert(name.to_owned(), value.clone()),
    };
    Value::Object(all)
}

fn many(n: usize) -> Value {
    (0..n).map(|n| format!("c{n}")).collect()
}

#[test]
fn agents() {
    let thumbprint = key().public().thumbprint().to_string();
    let good = json!({ "iss": thumbprint, "sub": "agt_1", "aud": "https://aw.example", "iat": NOW,
                       "exp": NOW + 60, "jti": "a" });
    let read = |claims: &Value| AgentClaims::read(&token(Typ::Agent, &[], claims));
    for (name, value) in [
        ("iss", Value::Null),
        ("more", json!({ "anything": [1] })),
        ("capabilities", json!([])),
        ("capabilities", many(128)),
        ("cnf", json!({ "jkt": thumbprint })),
        ("htm", json!("POST")),
        ("jti", json!("x".repeat(256))),
        ("iat", json!(0)),
    ] {
        assert!(read(&with(&good, name, &value)).is_ok(), "{name} {value}");
    }
    for (name, value) in [
        ("iss", json!("short")),
        ("iss", json!(7)),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!("two words")),
        ("sub", json!("x".repeat(129))),
        ("aud", Value::Null),
        ("aud", json!(["https://aw.example"])),
        ("aud", json!("x".repeat(2049))),
        ("iat", Value::Null),
        ("iat", json!(NOW.to_string())),
        ("iat", json!(NOW as f64 + 0.5)),
        ("iat", json!(-1)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(253_402_300_800i64)),
        ("jti", Value::Null),
        ("jti", json!("")),
        ("jti", json!("x".repeat(257))),
        ("capabilities", json!("read")),
        ("capabilities", json!([1])),
        ("capabilities", json!(["two words"])),
        ("capabilities", json!(["\u{0}"])),
        ("capabilities", many(129)),
        ("cnf", json!("x")),
        ("cnf", json!({})),
        ("cnf", json!({ "x5t#S256": thumbprint })),
        ("cnf", json!({ "jkt": thumbprint, "x5t#S256": thumbprint })),
        ("cnf", json!({ "jkt": "short" })),
        ("htm", json!("")),
        ("ath", json!("short")),
    ] {
        let found = read(&with(&good, name, &value));
        let is_its = matches!(found, Err(TokenError::Claim { claim, .. }) if claim == name);
        assert!(is_its, "{name} {value}: {found:?}");
    }
}

#[test]
fn hosts() {
    let thumbprint = key().public().thumbprint().to_string();
    let jwk: Value = serde_json::from_str(&key().public().to_jwk()).expect("JSON");
    let good = json!({ "iss": thumbprint, "aud": "https://aw.example", "iat": NOW, "exp": NOW + 60,
                       "jti": "h", "host_public_key": jwk });
    let read = |header: &[(&str, Value)], claims: &Value| {
        HostClaims::read(&token(Typ::Host, header, claims))
    };
    // What the published SDK sends on top of it.
    let kid = [("kid", Value::from(thumbprint.as_str()))];
    let named = with(&jwk, "kid", &json!("a name"));
    let sdk = with(&good, "sub", &json!(thumbprint));
    let sdk = with(&sdk, "host_public_key", &named);
    let sdk = with(&sdk, "host_name", &json!("laptop"));
    let plain = read(&[], &with(&good, "host_name", &json!("laptop")));
    assert_eq!(read(&kid, &sdk), plain);
    assert!(plain.is_ok());
    for (name, value, culprit) in [
        ("iss", Value::Null, "iss"),
        ("sub", json!("somebody else"), "sub"),
        ("host_public_key", Value::Null, "host_public_key"),
        ("host_public_key", json!("x"), "host_public_key"),
        ("host_jwks_url", json!("https://k.example"), "host_jwks_url"),
        ("agent_public_key", json!([]), "agent_public_key"),
        (
            "agent_jwks_url",
            json!("https://k.example"),
            "agent_jwks_url",
        ),
    ] {
        let found = read(&[], &with(&good, name, &value));
        let is_its = matches!(found, Err(TokenError::Claim { claim, .. }) if claim == culprit);
        assert!(is_its, "{name} {value}: {found:?}");
    }
    let private: Value = serde_json::from_str(&key().to_jwk()).expect("JSON");
    for name in ["host_public_key", "agent_public_key"] {
        let found = read(&[], &with(&good, name, &private));
        assert!(matches!(found, Err(TokenError::Key(_))), "{found:?}");
    }
    let by_url = with(&good, "host_public_key", &Value::Null);
    let by_url = with(&by_url, "host_jwks_url", &json!("https://k.example/h"));
    assert!(read(&kid, &by_url).is_ok());
    assert!(read(&[], &by_url).is_err(), "no kid");
    for url in [
        "http://k.example/h",
        "https://k.example/ h",
        "https://k.exämple/h",
        "file:///x",
        "",
    ] {
        let claims = with(&by_url, "host_jwks_url", &json!(url));
        assert!(read(&kid, &claims).is_err(), "{url}");
    }
    let agent = with(&by_url, "agent_kid", &json!("a"));
    assert!(
        read(
            &kid,
            &with(&agent, "agent_jwks_url", &json!("https://k.example/a"))
        )
        .is_ok()
    );
    assert!(
        read(
            &kid,
            &with(&agent, "agent_jwks_url", &json!("https://k.example/h"))
        )
        .is_err()
    );
}

#[test]
fn not_before_counts() {
    let audiences = ["https://aw.example".to_owned()];
    let expect = Expect::strict(NOW, &audiences);
    let good = json!({ "sub": "agt_1", "aud": "https://aw.example", "iat": NOW, "exp": NOW + 60,
                       "jti": "a" });
    for (nbf, taken) in [
        (json!(NOW), true),
        (json!(NOW - 1000), true),
        (json!(NOW + 30), true),
        (json!(NOW + 31), false),
        (json!("now"), false),
    ] {
        let token = token(Typ::Agent, &[], &with(&good, "nbf", &nbf));
        let claims = AgentClaims::read(&token).expect("claims");
        assert_eq!(claims.in_time(&token, &expect).is_ok(), taken, "{nbf}");
    }
}
