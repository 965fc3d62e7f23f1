//! Vectors that others made: RFC 8037, appendix A; Wycheproof; the Agent Auth vectors that other implementations signed.

use agentwall_identity::{AgentClaims, HostClaims, Jws, KeySource, PublicKey, SecretKey, Typ};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// RFC 8037, appendix A.1.
const PRIVATE: &str = r#"{"kty":"OKP","crv":"Ed25519",
  "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
  "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// Appendix A.2.
const PUBLIC: &str = r#"{"kty":"OKP","crv":"Ed25519",
  "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn signature(text: &str) -> [u8; 64] {
    let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64url");
    bytes.try_into().expect("64 bytes")
}

#[test]
fn rfc_8037_keys_and_thumbprint() {
    let secret = SecretKey::from_jwk(PRIVATE.as_bytes()).expect("A.1");
    let public = PublicKey::from_jwk(PUBLIC.as_bytes()).expect("A.2");
    assert_eq!(secret.public(), &public);
    assert_eq!(
        public.to_jwk(),
        r#"{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#
    );
    let a3 = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert_eq!(public.thumbprint().to_string(), a3);
    assert_eq!(a3.parse(), Ok(public.thumbprint()));
}

#[test]
fn rfc_8037_signing_and_validation() {
    let secret = SecretKey::from_jwk(PRIVATE.as_bytes()).expect("A.1");
    let input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let a4 = signature(
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    assert_eq!(secret.sign(input), a4);
    assert!(secret.public().verifies(input, &a4));
    let mut other = *input;
    other[0] ^= 1;
    assert!(!secret.public().verifies(&other, &a4));
}

#[test]
fn wycheproof_ed25519() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).expect("set");
    let mut seen = 0;
    for group in &set.test_groups {
        let point: [u8; 32] = group.key.pk.as_slice().try_into().expect("32 bytes");
        let key = PublicKey::from_bytes(&point).expect("a key");
        for test in &group.tests {
            let taken = match <[u8; 64]>::try_from(test.sig.as_slice()) {
                Ok(signature) => key.verifies(&test.msg, &signature),
                Err(_) => false,
            };
            let valid = test.result == wycheproof::TestResult::Valid;
            assert_eq!(taken, valid, "case {}: {}", test.tc_id, test.comment);
            seen += 1;
        }
    }
    assert_eq!(seen, 151);
}

#[test]
fn agent_auth() {
    let file: Value =
        serde_json::from_str(include_str!("../vectors/agent_auth.json")).expect("JSON");
    let text = |name: &str| file[name].as_str().expect("text");
    let host = SecretKey::from_jwk(PRIVATE.as_bytes()).expect("the host's key");
    let agent = SecretKey::from_jwk(file["agent_jwk"].to_string().as_bytes()).expect("the agent's");
    assert_eq!(
        host.public().thumbprint().to_string(),
        text("host_thumbprint")
    );
    assert_eq!(
        agent.public().thumbprint().to_string(),
        text("agent_thumbprint")
    );

    let token = Jws::parse(text("host_jwt")).expect("a token");
    assert_eq!(token.typ(), Typ::Host);
    assert_eq!(token.verify(host.public()), Ok(()));
    assert!(token.verify(agent.public()).is_err());
    let claims = HostClaims::read(&token).expect("claims");
    assert_eq!(
        claims,
        HostClaims {
            iss: host.public().thumbprint(),
            aud: "https://aw.example".to_owned(),
            iat: 1_710_000_000,
            exp: 1_710_000_060,
            jti: "h-1".to_owned(),
            host_key: KeySource::Inline(host.public().clone()),
            agent_key: Some(KeySource::Inline(agent.public().clone())),
            host_name: None,
        }
    );
    // Signed again it is read as the same; the members of its keys stand in another order.
    let again = Jws::parse(&host.sign_host(&claims)).expect("a token");
    assert_eq!(HostClaims::read(&again), Ok(claims));

    let token = Jws::parse(text("agent_jwt")).expect("a token");
    assert_eq!(token.typ(), Typ::Agent);
    assert_eq!(token.verify(agent.public()), Ok(()));
    assert!(token.verify(host.public()).is_err());
    let claims = AgentClaims::read(&token).expect("claims");
    assert_eq!(claims.sub.as_str(), "agt_1");
    assert_eq!(claims.iss, Some(host.public().thumbprint()));
    assert!(
        claims
            .capabilities
            .as_ref()
            .expect("some")
            .contains("check_balance")
    );
    // Byte for byte what another implementation signed.
    assert_eq!(agent.sign_agent(&claims), text("agent_jwt"));
    assert!(
        HostClaims::read(&token).is_err(),
        "one type is not the other"
    );
}
