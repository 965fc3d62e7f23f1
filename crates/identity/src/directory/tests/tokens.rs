//! Who is believed.

use super::*;
use crate::{HostStatus, Poll, Profile, ProofClaims, Request, RequestBinding, TokenError};
use sha2::{Digest as _, Sha256};

#[test]
fn an_agent_is_believed_and_an_impostor_is_not() {
    let world = World::new();
    let (mine, other) = (key(1), key(2));
    let id = world.agent(&mine, NOW);
    let other_id = world.agent(&other, NOW);
    let principal = world.principal(&mine, &id, NOW);
    assert_eq!(principal.agent(), &id);
    assert_eq!(principal.host(), &world.host);
    assert_eq!(principal.user(), Some(&world.user));
    let on_its_own = world
        .register(&world.host_key, &key(3), Mode::Autonomous, &["read"], NOW)
        .expect("registered")
        .agent;
    assert_eq!(world.principal(&key(3), &on_its_own, NOW).user(), None);

    let signature = AuthError::Token(TokenError::Signature);
    assert_eq!(world.try_agent(&other, &id, NOW).unwrap_err(), signature);
    assert_eq!(
        world.try_agent(&world.host_key, &id, NOW).unwrap_err(),
        signature
    );
    assert_eq!(
        world.try_agent(&mine, &other_id, NOW).unwrap_err(),
        signature
    );
    let nobody = "agt_nobody".parse().expect("an id");
    let unknown = world.try_agent(&mine, &nobody, NOW).unwrap_err();
    assert_eq!((unknown.code(), unknown.status()), ("invalid_jwt", 401));

    // Of another host.
    let mut claims = world.claims(&id, NOW);
    claims.iss = Some(other.public().thumbprint());
    assert_eq!(
        world.try_token(&mine, &claims, NOW).unwrap_err(),
        AuthError::UnknownAgent
    );
}

#[test]
fn one_type_of_token_is_not_the_other() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let audiences = audiences();
    let expect = Expect::strict(NOW, &audiences);
    let agent = Jws::parse(&mine.sign_agent(&world.claims(&id, NOW))).expect("a token");
    let host = Jws::parse(
        &world
            .host_key
            .sign_host(&world.host_claims(&world.host_key, NOW)),
    );
    let host = host.expect("a token");
    assert!(world.directory.authenticate_host(&host, &expect).is_ok());
    assert!(world.directory.authenticate_agent(&agent, &expect).is_ok());
    for wrong in [
        world.directory.authenticate_host(&agent, &expect).err(),
        world.directory.authenticate_agent(&host, &expect).err(),
    ] {
        assert!(
            matches!(wrong, Some(AuthError::Token(TokenError::Type { .. }))),
            "{wrong:?}"
        );
    }
}

#[test]
fn times_to_the_second() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    // iat and exp from now, taken or not.
    for (iat, exp, taken) in [
        (0, 60, true),
        (-89, -29, true),
        (-90, -30, false),
        (30, 90, true),
        (31, 91, false),
        (0, 61, false),
        (0, 0, false),
        (0, -1, false),
        (0, 1, true),
    ] {
        let mut claims = world.claims(&id, NOW);
        (claims.iat, claims.exp) = (NOW + iat, NOW + exp);
        let found = world.try_token(&mine, &claims, NOW);
        assert_eq!(found.is_ok(), taken, "{iat} {exp}: {found:?}");
        if let Ok(principal) = found {
            // The record lives as long as the token could come again, which may be more than 90 s from now.
            let until = principal.once()[0].until;
            assert!(world.try_token(&mine, &claims, until - 1).is_ok());
            assert!(world.try_token(&mine, &claims, until).is_err());
        }
    }
}

#[test]
fn times_of_a_host_to_the_second() {
    let world = World::new();
    let audiences = audiences();
    let expect = Expect::strict(NOW, &audiences);
    for key in [&world.host_key, &key(60)] {
        for (iat, exp, taken) in [
            (-89, -29, true),
            (-90, -30, false),
            (30, 90, true),
            (31, 91, false),
            (0, 61, false),
        ] {
            let mut claims = world.host_claims(key, NOW);
            (claims.iat, claims.exp) = (NOW + iat, NOW + exp);
            let token = Jws::parse(&key.sign_host(&claims)).expect("a token");
            let found = world.directory.authenticate_host(&token, &expect);
            assert_eq!(found.is_ok(), taken, "{iat} {exp}");
        }
        let mut claims = world.host_claims(key, NOW);
        claims.aud = "https://other.example".to_owned();
        let token = Jws::parse(&key.sign_host(&claims)).expect("a token");
        assert!(world.directory.authenticate_host(&token, &expect).is_err());
    }
}

#[test]
fn audiences_are_a_configured_list() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let served = vec![
        ISSUER.to_owned(),
        "https://aw.example/capability/execute".to_owned(),
    ];
    for (aud, taken) in [
        (ISSUER, true),
        ("https://aw.example/capability/execute", true),
        ("https://aw.example/", false),
        ("https://AW.example", false),
        ("https://evil.example", false),
    ] {
        for profile in [Profile::Strict, Profile::Compat] {
            let mut claims = world.claims(&id, NOW);
            claims.aud = aud.to_owned();
            let token = Jws::parse(&mine.sign_agent(&claims)).expect("a token");
            let expect = Expect {
                profile,
                ..Expect::strict(NOW, &served)
            };
            let found = world.directory.authenticate_agent(&token, &expect);
            assert_eq!(found.is_ok(), taken, "{aud} {profile}");
        }
    }
}

/// The listed deviation: the published SDK's agent tokens have no `iss`. One that is there must be right.
#[test]
fn compat_takes_a_token_without_iss() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let audiences = audiences();
    let strict = Expect::strict(NOW, &audiences);
    let compat = Expect {
        profile: Profile::Compat,
        ..strict
    };
    let token = |iss| {
        let mut claims = world.claims(&id, NOW);
        claims.iss = iss;
        Jws::parse(&mine.sign_agent(&claims)).expect("a token")
    };
    let right = Some(world.host_key.public().thumbprint());
    let wrong = Some(key(9).public().thumbprint());
    for (iss, in_strict, in_compat) in [
        (right, true, true),
        (None, false, true),
        (wrong, false, false),
    ] {
        let token = token(iss);
        assert_eq!(
            world.directory.authenticate_agent(&token, &strict).is_ok(),
            in_strict
        );
        assert_eq!(
            world.directory.authenticate_agent(&token, &compat).is_ok(),
            in_compat
        );
    }
}

/// The listed deviation: the published SDK asks after an execution with the token that began it.
#[test]
fn compat_takes_the_token_of_an_execution_again_to_ask_after_it() {
    let world = World::new();
    let (mine, other) = (key(1), key(2));
    let id = world.agent(&mine, NOW);
    let audiences = audiences();
    let claims = world.claims(&id, NOW);
    let token = Jws::parse(&mine.sign_agent(&claims)).expect("a token");
    let later = NOW + 500;
    let ask = |token: &Jws, profile, jti: &str, now| {
        let poll = Some(Poll {
            jti,
            until: NOW + 600,
        });
        let expect = Expect {
            profile,
            poll,
            ..Expect::strict(now, &audiences)
        };
        world.directory.authenticate_agent(token, &expect)
    };
    let found = ask(&token, Profile::Compat, &claims.jti, later).expect("its own execution");
    assert!(found.once().is_empty(), "nothing is to be recorded");
    assert!(ask(&token, Profile::Strict, &claims.jti, later).is_err());
    assert!(ask(&token, Profile::Compat, "another", later).is_err());
    assert!(
        ask(&token, Profile::Compat, &claims.jti, NOW + 600).is_err(),
        "too late"
    );
    let forged = Jws::parse(&other.sign_agent(&claims)).expect("a token");
    assert!(ask(&forged, Profile::Compat, &claims.jti, later).is_err());
    // A fresh token, as the specification says, is taken and recorded in both.
    let fresh = Jws::parse(&mine.sign_agent(&world.claims(&id, later))).expect("a token");
    for profile in [Profile::Strict, Profile::Compat] {
        assert_eq!(
            ask(&fresh, profile, &claims.jti, later)
                .expect("fresh")
                .once()
                .len(),
            1
        );
    }
    // The revocation counts for the poll, too.
    world
        .directory
        .revoke_agent(By::Operator("root"), &id, later)
        .expect("revoked");
    let ended = ask(&token, Profile::Compat, &claims.jti, later).unwrap_err();
    assert_eq!(ended, AuthError::AgentRevoked);
}

/// What the published implementation lets through: host tokens that are used again, on any route.
#[test]
fn every_host_token_is_for_once() {
    let world = World::new();
    for key in [&world.host_key, &key(50)] {
        let auth = world.host_auth(key, Some(&super::key(51)), NOW);
        assert_eq!(auth.once().len(), 1);
    }
}

/// An invalid signature gives no principal, so there is nothing that could burn an identifier.
#[test]
fn an_invalid_signature_burns_no_identifier() {
    let world = World::new();
    let (mine, other) = (key(1), key(2));
    let id = world.agent(&mine, NOW);
    let claims = world.claims(&id, NOW);
    assert!(world.try_token(&other, &claims, NOW).is_err());
    let principal = world.try_token(&mine, &claims, NOW).expect("an agent");
    assert_eq!(principal.once()[0].jti, claims.jti);
}

#[test]
fn the_thumbprint_of_an_unknown_host_is_that_of_its_key() {
    let world = World::new();
    let (stranger, victim) = (key(60), &world.host_key);
    let audiences = audiences();
    let expect = Expect::strict(NOW, &audiences);
    let try_host = |claims: &HostClaims, key: &SecretKey| {
        let token = Jws::parse(&key.sign_host(claims)).expect("a token");
        world.directory.authenticate_host(&token, &expect)
    };
    let own = world.host_claims(&stranger, NOW);
    assert!(matches!(
        try_host(&own, &stranger),
        Ok(HostAuth::Unknown(_))
    ));
    // Another's name with the own key.
    let mut claims = own.clone();
    claims.iss = victim.public().thumbprint();
    assert!(try_host(&claims, &stranger).is_err());
    claims.iss = key(61).public().thumbprint();
    assert!(try_host(&claims, &stranger).is_err());
    // Another's key, not signed by it.
    let claims = world.host_claims(victim, NOW);
    assert!(try_host(&claims, &stranger).is_err());
    assert!(matches!(try_host(&claims, victim), Ok(HostAuth::Known(_))));
    // A JWK that calls itself by the victim's thumbprint, as kid.
    let kid = victim.public().thumbprint().to_string();
    let jwk = stranger
        .public()
        .to_jwk()
        .replace('{', &format!(r#"{{"kid":"{kid}","#));
    let named = PublicKey::from_jwk(jwk.as_bytes()).expect("a key");
    let mut claims = own;
    claims.host_key = KeySource::Inline(named);
    assert!(matches!(
        try_host(&claims, &stranger),
        Ok(HostAuth::Unknown(_))
    ));
}

#[test]
fn a_token_that_is_bound_to_a_request_is_for_that_alone() {
    let world = World::new();
    let mine = key(1);
    let id = world.agent(&mine, NOW);
    let audiences = audiences();
    // The digest is over the bytes that came, not over what they mean.
    let body = |text: &str| Some(<[u8; 32]>::from(Sha256::digest(text)));
    let mut claims = world.claims(&id, NOW);
    claims.request = Some(RequestBinding {
        htm: Some("POST".to_owned()),
        htu: Some("https://aw.example/capability/execute".to_owned()),
        ath: body(r#"{"a":1}"#),
    });
    let token = Jws::parse(&mine.sign_agent(&claims)).expect("a token");
    let right = Request {
        method: "POST",
        url: "https://AW.example:443/capability/execute?x=1",
        body: body(r#"{"a":1}"#),
        proof: None,
        nonces: &[],
    };
    let taken = |request| {
        let expect = Expect {
            request,
            ..Expect::strict(NOW, &audiences)
        };
        world.directory.authenticate_agent(&token, &expect).is_ok()
    };
    assert!(taken(Some(right)));
    assert!(!taken(None));
    assert!(!taken(Some(Request {
        method: "GET",
        ..right
    })));
    assert!(!taken(Some(Request {
        url: "https://aw.example/capability/list",
        ..right
    })));
    assert!(!taken(Some(Request {
        url: "http://aw.example/capability/execute",
        ..right
    })));
    assert!(!taken(Some(Request {
        body: body(r#"{"a": 1}"#),
        ..right
    })));
    assert!(!taken(Some(Request {
        body: None,
        ..right
    })));
}

#[test]
fn a_token_with_cnf_needs_a_proof_of_the_key() {
    let world = World::new();
    let (mine, proof_key, thief) = (key(1), key(30), key(31));
    let id = world.agent(&mine, NOW);
    let audiences = audiences();
    let mut claims = world.claims(&id, NOW);
    claims.jkt = Some(proof_key.public().thumbprint());
    let text = mine.sign_agent(&claims);
    let token = Jws::parse(&text).expect("a token");
    let other_token = mine.sign_agent(&world.claims(&id, NOW));
    let good = ProofClaims {
        htm: "POST",
        htu: "https://aw.example/x",
        token: &text,
        iat: NOW,
        jti: "p1",
        nonce: Some("n2"),
    };
    let nonces = ["n1".to_owned(), "n2".to_owned()];
    let present = |token: &Jws, proof: Option<&str>, now| {
        let request = Some(Request {
            method: "POST",
            url: "https://aw.example/x?query",
            body: None,
            proof,
            nonces: &nonces,
        });
        let expect = Expect {
            request,
            ..Expect::strict(now, &audiences)
        };
        world.directory.authenticate_agent(token, &expect)
    };
    let proof = proof_key.sign_proof(&good);
    let principal = present(&token, Some(&proof), NOW).expect("proved");
    // The proof is for once, too.
    assert_eq!(principal.once().len(), 2);
    assert_eq!(principal.once()[1].jti, "p1");
    assert!(present(&token, None, NOW).is_err());
    assert!(present(&token, Some(&thief.sign_proof(&good)), NOW).is_err());
    assert!(
        present(&token, Some(&text), NOW).is_err(),
        "the token is no proof"
    );
    // The right key in the header, and the signature of another one.
    let claims = Jws::parse(&proof).expect("a proof").claims().clone();
    let jwk = serde_json::from_str(&proof_key.public().to_jwk()).expect("JSON");
    let borrowed = crate::jws::sign(&thief, crate::Typ::Dpop, &[("jwk", jwk)], &claims);
    assert!(present(&token, Some(&borrowed), NOW).is_err());
    let wrong = |change: &dyn Fn(&mut ProofClaims<'_>)| {
        let mut claims = good.clone();
        change(&mut claims);
        present(&token, Some(&proof_key.sign_proof(&claims)), NOW).is_err()
    };
    assert!(wrong(&|p| p.htm = "GET"));
    assert!(wrong(&|p| p.htu = "https://aw.example/y"));
    assert!(wrong(&|p| p.htu = "https://user@aw.example/x"));
    assert!(wrong(&|p| p.nonce = None));
    assert!(wrong(&|p| p.nonce = Some("n0")));
    assert!(wrong(&|p| p.iat = NOW + 31));
    assert!(wrong(&|p| p.iat = NOW - 90));
    assert!(!wrong(&|p| p.iat = NOW - 89));
    let for_other = ProofClaims {
        token: &other_token,
        ..good.clone()
    };
    assert!(present(&token, Some(&proof_key.sign_proof(&for_other)), NOW).is_err());
    // A proof for a token that is not bound to its key proves nothing.
    let unbound = Jws::parse(&other_token).expect("a token");
    assert!(present(&unbound, Some(&proof_key.sign_proof(&for_other)), NOW).is_err());
    assert!(present(&unbound, None, NOW).is_ok());
}

#[test]
fn a_host_that_ended_does_not_come_back_as_a_stranger() {
    let world = World::new();
    let audiences = audiences();
    let expect = Expect::strict(NOW, &audiences);
    let host = world.host(NOW);
    world
        .directory
        .revoke_host(By::Host(&host), &world.host, NOW)
        .expect("revoked");
    let mut claims = world.host_claims(&world.host_key, NOW);
    claims.agent_key = Some(KeySource::Inline(key(5).public().clone()));
    let token = Jws::parse(&world.host_key.sign_host(&claims)).expect("a token");
    let found = world
        .directory
        .authenticate_host(&token, &expect)
        .unwrap_err();
    assert_eq!((found.code(), found.status()), ("host_revoked", 403));
    assert_eq!(
        world.directory.host(&world.host).expect("it").status,
        HostStatus::Revoked
    );
}
