//! What agents and hosts send to say who they are: tokens, keys, proofs, constraints. Read in one spelling; nobody is believed
//! without the signature of their key over these very bytes, in time, and for this request.

use std::sync::OnceLock;

use agentwall_identity::{
    AgentClaims, AgentId, By, Catalogue, Constraints, Directory, Expect, HostClaims, Jwks, Jws,
    KeySource, MAX_DEPTH, MAX_LIFETIME, MemoryStore, Mode, Profile, PublicKey, Registration,
    Request, SKEW, SecretKey, Settings, Typ, parse_json,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::input::{assert_json, assert_shown, parts};

/// The moment of all targets; the seeds are made for it.
const NOW: i64 = 1_710_000_000;
const ISSUER: &str = "https://aw.example";

struct World {
    directory: Directory,
    host: SecretKey,
    agent: SecretKey,
    id: AgentId,
    audiences: Vec<String>,
}

struct Nothing;

impl Catalogue for Nothing {
    fn imposed(&self, _: &str) -> Option<Constraints> {
        None
    }
}

/// One host with one agent. The keys are those of `crates/identity/vectors`; nothing here changes it.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let host = SecretKey::from_seed(&[7; 32]).expect("a key");
        let agent = SecretKey::from_seed(&[1; 32]).expect("a key");
        let store = Box::new(MemoryStore::new());
        let directory = Directory::open(store, Settings::default()).expect("a directory");
        directory
            .enrol_host(host.public(), None, "fuzz", NOW)
            .expect("enrolled");
        let audiences = vec![ISSUER.to_owned()];
        let expect = Expect::strict(NOW, &audiences);
        let claims = HostClaims {
            iss: host.public().thumbprint(),
            aud: ISSUER.to_owned(),
            iat: NOW,
            exp: NOW + 60,
            jti: "j".to_owned(),
            host_key: KeySource::Inline(host.public().clone()),
            agent_key: Some(KeySource::Inline(agent.public().clone())),
            host_name: None,
        };
        let token = Jws::parse(&host.sign_host(&claims)).expect("a token");
        let auth = directory
            .authenticate_host(&token, &expect)
            .expect("a host");
        let registration = Registration {
            name: "a".to_owned(),
            mode: Mode::Autonomous,
            ..Registration::default()
        };
        let made = directory.register(&auth, &registration, &Nothing, &expect);
        let id = made.expect("an agent").agent;
        World {
            directory,
            host,
            agent,
            id,
            audiences,
        }
    })
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signs a header and claims as they are.
fn signed(key: &SecretKey, header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", encode(header), encode(claims));
    let signature = encode(&key.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// `AGENT` in claims stands for the agent's id, which is another one in each run, `ISS` for its host.
fn filled(claims: &[u8]) -> Vec<u8> {
    let world = world();
    let text = String::from_utf8_lossy(claims);
    let iss = world.host.public().thumbprint().to_string();
    text.replace("AGENT", world.id.as_str())
        .replace("ISS", &iss)
        .into_bytes()
}

/// A token; or a header and claims, which are signed by the agent's and by the host's key.
pub fn token(data: &[u8]) {
    let world = world();
    let parts = parts(data);
    let [header, claims, ..] = parts.as_slice() else {
        let text = String::from_utf8_lossy(data);
        assert!(!judge(&text), "nobody signed it: {text}");
        return;
    };
    let claims = filled(claims);
    for (key, ours) in [(&world.agent, true), (&world.host, false)] {
        let text = signed(key, header, &claims);
        assert!(!judge(&text) || ours, "signed by another key");
        // Signed by the same key for other bytes.
        let other = signed(key, header, &[claims.as_slice(), b" "].concat());
        let cut = text.rfind('.').expect("three parts");
        let end = other.rfind('.').expect("three parts");
        let moved = format!("{}{}", &text[..cut], &other[end..]);
        assert!(!judge(&moved), "the signature is of another text");
    }
}

/// Whether it is an agent's token that is believed, and that it is as it must be if so.
fn judge(text: &str) -> bool {
    let world = world();
    let jws = match Jws::parse(text) {
        Ok(jws) => jws,
        Err(e) => {
            assert_shown(&e.to_string());
            return false;
        }
    };
    assert_eq!(jws.as_str(), text);
    // One spelling: what was decoded encodes to the same.
    for part in text.split('.') {
        assert_eq!(
            encode(&URL_SAFE_NO_PAD.decode(part).expect("base64url")),
            part
        );
    }
    if let Ok(claims) = HostClaims::read(&jws) {
        let again = Jws::parse(&world.host.sign_host(&claims));
        // A kid of a token with its key inside is not signed again, a long one may not fit.
        if let Ok(again) = again {
            assert_eq!(HostClaims::read(&again), Ok(claims));
        }
    }
    let read = AgentClaims::read(&jws);
    if let Ok(claims) = &read
        && let Ok(again) = Jws::parse(&world.agent.sign_agent(claims))
    {
        assert_eq!(AgentClaims::read(&again).as_ref(), Ok(claims));
    }
    let mut believed = false;
    for profile in [Profile::Strict, Profile::Compat] {
        let expect = Expect {
            profile,
            ..Expect::strict(NOW, &world.audiences)
        };
        if let Err(e) = world.directory.authenticate_host(&jws, &expect) {
            assert_shown(&e.to_string());
            assert!((400..600).contains(&e.status()));
        }
        match world.directory.authenticate_agent(&jws, &expect) {
            Err(e) => {
                assert_shown(&e.to_string());
                assert!(!believed, "compat takes what strict takes: {e}");
            }
            Ok(principal) => {
                believed = true;
                let claims = read.as_ref().expect("claims");
                assert_eq!(jws.typ(), Typ::Agent);
                assert_eq!(jws.verify(world.agent.public()), Ok(()));
                assert_eq!(principal.agent(), &world.id);
                assert_eq!(claims.aud, ISSUER);
                assert!(claims.exp > claims.iat && claims.exp - claims.iat <= MAX_LIFETIME);
                assert!(claims.iat <= NOW + SKEW && NOW < claims.exp + SKEW);
                assert!(claims.jkt.is_none(), "there was no proof");
                assert!(claims.request.is_none(), "there was no request");
                let right = claims.iss == Some(world.host.public().thumbprint());
                assert!(right || claims.iss.is_none() && profile == Profile::Compat);
                let once = principal.once();
                assert_eq!(once.len(), 1);
                assert!(once[0].until > NOW && once[0].until <= NOW + MAX_LIFETIME + 2 * SKEW);
            }
        }
    }
    let view = world
        .directory
        .status(By::Operator("fuzz"), &world.id, NOW)
        .expect("the agent");
    assert!(view.used_at.is_none(), "nothing is changed by a look");
    believed
}

/// A JWK, or a JWK set.
pub fn jwk(data: &[u8]) {
    match PublicKey::from_jwk(data) {
        Err(e) => assert_shown(&e.to_string()),
        Ok(key) => {
            let again = PublicKey::from_jwk(key.to_jwk().as_bytes()).expect("what it writes");
            assert_eq!((&again, again.thumbprint()), (&key, key.thumbprint()));
            assert_eq!(again.to_jwk(), key.to_jwk());
            assert_json(&key);
            let text = key.thumbprint().to_string();
            assert_eq!(text.parse(), Ok(key.thumbprint()));
            let members: Value = serde_json::from_slice(data).expect("JSON");
            assert!(members.get("d").is_none(), "a private key");
        }
    }
    if let Ok(secret) = SecretKey::from_jwk(data) {
        assert!(PublicKey::from_jwk(data).is_err());
        let public = secret.public();
        assert!(public.verifies(b"x", &secret.sign(b"x")));
        assert!(!public.verifies(b"y", &secret.sign(b"x")));
    }
    match Jwks::parse(data) {
        Err(e) => assert_shown(&e.to_string()),
        Ok(set) => {
            let all: Value = serde_json::from_slice(data).expect("JSON");
            let keys = all["keys"].as_array().expect("a list");
            assert!((1..=20).contains(&keys.len()));
            for key in keys {
                assert_ne!(key["kty"], "oct");
                let found = key["kid"].as_str().and_then(|kid| set.get(kid));
                if let Some(found) = found {
                    let own = found.to_jwk();
                    let x: Value = serde_json::from_str(&own).expect("JSON");
                    assert_eq!(x["x"], key["x"]);
                }
            }
        }
    }
}

/// A method, an address and the claims of a DPoP proof in three parts; `ATH` in the claims is the token's digest. The proof is signed by
/// the right key and by another one.
pub fn dpop(data: &[u8]) {
    let world = world();
    let parts = parts(data);
    let [method, url, claims, ..] = parts.as_slice() else {
        return;
    };
    let (method, url) = (
        String::from_utf8_lossy(method),
        String::from_utf8_lossy(url),
    );
    let proof_key = SecretKey::from_seed(&[3; 32]).expect("a key");
    let token = AgentClaims {
        iss: Some(world.host.public().thumbprint()),
        sub: world.id.clone(),
        aud: ISSUER.to_owned(),
        iat: NOW,
        exp: NOW + 60,
        jti: "t".to_owned(),
        capabilities: None,
        jkt: Some(proof_key.public().thumbprint()),
        request: None,
    };
    let text = world.agent.sign_agent(&token);
    let token = Jws::parse(&text).expect("a token");
    let digest = {
        use sha2::Digest as _;
        encode(&sha2::Sha256::digest(&text))
    };
    let claims = String::from_utf8_lossy(claims).replace("ATH", &digest);
    let header = |key: &SecretKey| {
        let jwk = key.public().to_jwk();
        format!(r#"{{"alg":"EdDSA","typ":"dpop+jwt","jwk":{jwk}}}"#).into_bytes()
    };
    for (key, nonce) in [
        (&proof_key, false),
        (&proof_key, true),
        (&world.agent, false),
    ] {
        let proof = signed(key, &header(key), claims.as_bytes());
        let nonces = [String::from("n")];
        let request = Some(Request {
            method: &method,
            url: &url,
            body: None,
            proof: Some(&proof),
            nonces: if nonce { &nonces } else { &[] },
        });
        let expect = Expect {
            request,
            ..Expect::strict(NOW, &world.audiences)
        };
        match world.directory.authenticate_agent(&token, &expect) {
            Err(e) => assert_shown(&e.to_string()),
            Ok(principal) => {
                assert_eq!(key.public(), proof_key.public(), "another key");
                let claims = parse_json(claims.as_bytes(), 1 << 16).expect("JSON");
                assert_eq!(claims["htm"], *method);
                assert_eq!(claims["ath"], digest);
                assert!(!nonce || claims["nonce"] == "n");
                let iat = claims["iat"].as_i64().expect("a moment");
                assert!((NOW - 90..=NOW + 30).contains(&iat));
                let htu = claims["htu"].as_str().expect("an address");
                // The path is compared byte by byte.
                let path = |url: &str| {
                    let url = url.split(['?', '#']).next().unwrap_or_default();
                    let rest = url
                        .split_once("://")
                        .map_or("", |(_, rest)| rest)
                        .to_owned();
                    rest.find('/')
                        .map_or("/".to_owned(), |at| rest[at..].to_owned())
                };
                assert_eq!(path(htu), path(&url));
                let once = principal.once();
                assert_eq!(once.len(), 2);
                assert_eq!(claims["jti"], once[1].jti.as_str());
            }
        }
    }
}

/// Constraints twice and arguments, in three parts: what is narrowed holds exactly if both hold, and is written and read back. Any part:
/// JSON that is taken is what serde_json reads, and no deeper than it may be.
pub fn constraint(data: &[u8]) {
    let read: Vec<Value> = parts(data)
        .iter()
        .map(|part| match parse_json(part, 1 << 16) {
            Ok(value) => {
                assert_eq!(value, serde_json::from_slice::<Value>(part).expect("JSON"));
                assert!(depth(&value) <= MAX_DEPTH);
                value
            }
            Err(e) => {
                assert_shown(&e.to_string());
                Value::Null
            }
        })
        .collect();
    let [a, b, arguments, ..] = read.as_slice() else {
        return;
    };
    match (Constraints::read(a), Constraints::read(b)) {
        (Ok(a), Ok(b)) => {
            let both = a.narrowed(&b);
            let holds = |c: &Constraints| c.violations(arguments).is_empty();
            assert_eq!(holds(&both), holds(&a) && holds(&b));
            assert_eq!(holds(&b.narrowed(&a)), holds(&both));
            let again = Constraints::read(&Value::from(both.clone())).expect("what it writes");
            assert_eq!(holds(&again), holds(&both));
        }
        (a, b) => {
            for e in [a.err(), b.err()].into_iter().flatten() {
                assert_shown(&e.to_string());
            }
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
        Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
