//! Keys in JWK sets.

use super::*;
use crate::{Fetched, Jwks};

fn set(url: &str, keys: &[(&str, &SecretKey)]) -> Vec<Fetched> {
    let named = |(kid, key): &(&str, &SecretKey)| {
        key.public()
            .to_jwk()
            .replace('{', &format!(r#"{{"kid":"{kid}","#))
    };
    let keys: Vec<_> = keys.iter().map(named).collect();
    let text = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
    vec![Fetched {
        url: url.to_owned(),
        keys: Jwks::parse(text.as_bytes()).expect("a set"),
    }]
}

#[test]
fn keys_of_a_set_follow_the_set_and_never_go_back() {
    let world = World::new();
    let audiences = audiences();
    let (old, new, agent_old, agent_new) = (key(70), key(71), key(72), key(73));
    let (host_url, agent_url) = ("https://keys.example/host", "https://keys.example/agent");
    let host_token = |key: &SecretKey, kid: &str| {
        let mut claims = world.host_claims(key, NOW);
        claims.host_key = KeySource::Jwks {
            url: host_url.to_owned(),
            kid: kid.to_owned(),
        };
        claims.agent_key = Some(KeySource::Jwks {
            url: agent_url.to_owned(),
            kid: "a1".to_owned(),
        });
        Jws::parse(&key.sign_host(&claims)).expect("a token")
    };
    let auth = |token: &Jws, fetched: &[Fetched]| {
        let expect = Expect {
            fetched,
            ..Expect::strict(NOW, &audiences)
        };
        world.directory.authenticate_host(token, &expect)
    };
    let needs = AuthError::NeedsKeys {
        url: host_url.to_owned(),
        kid: "h1".to_owned(),
    };
    assert_eq!(auth(&host_token(&old, "h1"), &[]).unwrap_err(), needs);
    let elsewhere = set("https://evil.example/host", &[("h1", &old)]);
    assert_eq!(
        auth(&host_token(&old, "h1"), &elsewhere).unwrap_err(),
        needs
    );
    let first = set(host_url, &[("h1", &old)]);
    let newcomer = auth(&host_token(&old, "h1"), &first).expect("a newcomer");
    let agents = set(agent_url, &[("a1", &agent_old)]);
    let expect = Expect {
        fetched: &agents,
        ..Expect::strict(NOW, &audiences)
    };
    let registration = Registration {
        name: "a".to_owned(),
        ..Registration::default()
    };
    let registered = world
        .directory
        .register(&newcomer, &registration, &Known, &expect);
    let registered = registered.expect("registered");
    let d = &world.directory;
    d.approve_host(&registered.host, Some(&world.user), "root", NOW)
        .expect("approved");
    d.approve_agent(&registered.agent, "root", NOW)
        .expect("approved");
    // Known now: nothing is fetched for the key that is recorded.
    assert!(
        auth(&host_token(&old, "h1"), &[])
            .expect("known")
            .known()
            .is_ok()
    );
    // How the key comes is fixed.
    let inline = world.host_claims(&old, NOW);
    let inline = Jws::parse(&old.sign_host(&inline)).expect("a token");
    assert_eq!(auth(&inline, &[]).unwrap_err(), AuthError::Delivery);
    // The set has another key. The agent may name its host by it before the host comes itself.
    let second = set(host_url, &[("h2", &new), ("h1", &old)]);
    let by_agent = |iss: &SecretKey, fetched: &[Fetched]| {
        let mut claims = world.claims(&registered.agent, NOW);
        claims.iss = Some(iss.public().thumbprint());
        let token = Jws::parse(&agent_old.sign_agent(&claims)).expect("a token");
        let expect = Expect {
            fetched,
            ..Expect::strict(NOW, &audiences)
        };
        d.authenticate_agent(&token, &expect).map(|_| ())
    };
    assert_eq!(by_agent(&old, &[]), Ok(()));
    // It is not asked for by the name of the key that is known: a set that still has that one would do.
    let unknown = new.public().thumbprint().to_string();
    let asked = by_agent(&new, &[]);
    assert!(
        matches!(&asked, Err(AuthError::NeedsKeys { url, kid }) if url == host_url && *kid == unknown),
        "{asked:?}"
    );
    assert_eq!(by_agent(&new, &first), Err(AuthError::UnknownAgent));
    assert_eq!(by_agent(&new, &second), Ok(()));
    assert!(auth(&host_token(&new, "h2"), &[]).is_err());
    assert!(auth(&host_token(&new, "h2"), &first).is_err());
    assert!(
        auth(&host_token(&new, "h2"), &second)
            .expect("rotated")
            .known()
            .is_ok()
    );
    assert_eq!(
        auth(&host_token(&old, "h1"), &second).unwrap_err(),
        AuthError::RetiredKey
    );

    assert_eq!(by_agent(&old, &second), Err(AuthError::RetiredKey));
    // A set's key is exchanged by the set alone.
    let auth_now = auth(&host_token(&new, "h2"), &second).expect("known");
    let host = auth_now.known().expect("known");
    let delivery = ChangeError::Standing(AuthError::Delivery);
    let other = key(90);
    let found = d.rotate_host_key(host, other.public(), NOW);
    assert_eq!(found, Err(delivery.clone()));
    let found = d.rotate_agent_key(By::Host(host), &registered.agent, other.public(), NOW);
    assert_eq!(found, Err(delivery));
    // The agent's set, the same way.
    let agent_token = |key: &SecretKey, kid: &str| {
        let mut claims = world.claims(&registered.agent, NOW);
        claims.iss = Some(new.public().thumbprint());
        let header = [("kid", serde_json::Value::from(kid))];
        let plain = key.sign_agent(&claims);
        let claims = Jws::parse(&plain).expect("a token").claims().clone();
        let text = crate::jws::sign(key, crate::Typ::Agent, &header, &claims);
        Jws::parse(&text).expect("a token")
    };
    let auth = |token: &Jws, fetched: &[Fetched]| {
        let expect = Expect {
            fetched,
            ..Expect::strict(NOW, &audiences)
        };
        world.directory.authenticate_agent(token, &expect)
    };
    assert!(auth(&agent_token(&agent_old, "a1"), &[]).is_ok());
    let both = set(agent_url, &[("a1", &agent_old), ("a2", &agent_new)]);
    assert!(matches!(
        auth(&agent_token(&agent_new, "a2"), &[]),
        Err(AuthError::NeedsKeys { .. })
    ));
    // The right name with the wrong key changes nothing.
    assert!(auth(&agent_token(&agent_old, "a2"), &both).is_err());
    assert!(auth(&agent_token(&agent_old, "a1"), &[]).is_ok());
    assert!(auth(&agent_token(&agent_new, "a2"), &both).is_ok());
    assert_eq!(
        auth(&agent_token(&agent_old, "a1"), &both).unwrap_err(),
        AuthError::RetiredKey
    );
}
