use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{keys::KeySets, *};

/// Not on this host: the network below leads there, and tells where it was asked to go.
const THERE: &str = "93.184.216.34";

/// A name server with an answer for each question in turn (the last one again and again), and one way to a server of the test.
#[derive(Debug)]
struct Scripted {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
    went: Mutex<Vec<SocketAddr>>,
    server: SocketAddr,
}

impl Network for Scripted {
    fn resolve<'a>(&'a self, _: &'a str) -> Eventually<'a, Vec<IpAddr>> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.get(number).or(self.answers.last());
        let answer = answer.cloned().unwrap_or_default();
        Box::pin(async move { Ok(answer) })
    }

    fn connect(&self, to: SocketAddr) -> Eventually<'_, TcpStream> {
        self.went.lock().unwrap().push(to);
        Box::pin(TcpStream::connect(self.server))
    }
}

struct World {
    network: Arc<Scripted>,
    fetcher: Fetcher,
    served: Arc<AtomicUsize>,
}

type Answer = fn(usize) -> Response<Full<Bytes>>;

/// A TLS server for `keys.example`, a resolver with these answers, and a fetcher that trusts the server.
async fn world(answers: &[&[&str]], answer: Answer) -> World {
    let certified = rcgen::generate_simple_self_signed(vec!["keys.example".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = || Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let served = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |_| {
                    let number = counted.fetch_add(1, Ordering::Relaxed);
                    async move { Ok::<_, std::convert::Infallible>(answer(number)) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let tls = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let parsed = answers
        .iter()
        .map(|all| all.iter().map(|a| a.parse().unwrap()).collect());
    let network = Arc::new(Scripted {
        answers: parsed.collect(),
        asked: AtomicUsize::new(0),
        went: Mutex::default(),
        server,
    });
    let fetcher = Fetcher::with(Arc::clone(&network) as Arc<dyn Network>, tls);
    World {
        network,
        fetcher,
        served,
    }
}

fn json(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().header("content-type", "application/json");
    response.body(Full::new(body.into())).unwrap()
}

const URL: &str = "https://keys.example/jwks";

#[tokio::test]
async fn what_is_public_is_fetched_from_the_address_that_was_checked() {
    let world = world(&[&[THERE], &["127.0.0.1"]], |_| json("{}")).await;
    assert_eq!(world.fetcher.json(URL).await, Ok(Bytes::from("{}")));
    assert_eq!(
        world.network.asked.load(Ordering::Relaxed),
        1,
        "a second answer could be another one"
    );
    assert_eq!(
        *world.network.went.lock().unwrap(),
        [SocketAddr::new(THERE.parse().unwrap(), 443)]
    );
    // The name means another address by now (rebinding).
    assert_eq!(
        world.fetcher.json(URL).await,
        Err(FetchError::Address("keys.example".into()))
    );
    assert_eq!(world.served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_address_that_is_not_public_is_enough() {
    for bad in [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "::7f00:1",
    ] {
        for answers in [vec![bad], vec![THERE, bad], vec![bad, THERE]] {
            let world = world(&[&answers], |_| json("{}")).await;
            assert_eq!(
                world.fetcher.json(URL).await,
                Err(FetchError::Address("keys.example".into())),
                "{answers:?}"
            );
            assert!(world.network.went.lock().unwrap().is_empty(), "{answers:?}");
        }
    }
    let nowhere = world(&[&[]], |_| json("{}")).await;
    assert!(matches!(
        nowhere.fetcher.json(URL).await,
        Err(FetchError::Name(_))
    ));
}

#[tokio::test]
async fn other_addresses_than_https_are_not_fetched() {
    let world = world(&[&[THERE]], |_| json("{}")).await;
    for url in [
        "http://keys.example/",
        "https://keys.example:8443/",
        "https://u:p@keys.example/",
        "https://keys.example/#f",
        "file:///etc/passwd",
        "keys.example",
        "https://",
        "https:///x",
        "",
    ] {
        assert_eq!(world.fetcher.json(url).await, Err(FetchError::Url), "{url}");
    }
    for url in [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/",
    ] {
        assert!(
            matches!(world.fetcher.json(url).await, Err(FetchError::Address(_))),
            "{url}"
        );
    }
    assert!(world.network.went.lock().unwrap().is_empty());
    assert_eq!(
        world.fetcher.json("https://KEYS.example.:443/a?b").await,
        Ok(Bytes::from("{}"))
    );
}

#[tokio::test]
async fn what_is_no_plain_json_of_a_bounded_length_is_not_read() {
    let of = async |answer: Answer| world(&[&[THERE]], answer).await.fetcher.json(URL).await;
    let host = || "keys.example".to_owned();
    let long = of(|_| json(vec![b' '; MAX_ANSWER + 1])).await;
    assert_eq!(long, Err(FetchError::Length(host())));
    assert_eq!(
        of(|_| json(vec![b' '; MAX_ANSWER])).await.map(|b| b.len()),
        Ok(MAX_ANSWER)
    );
    let moved = |_| {
        let mut response = json("{}");
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(
            header::LOCATION,
            HeaderValue::from_static("https://169.254.169.254/"),
        );
        response
    };
    assert_eq!(of(moved).await, Err(FetchError::Status(host(), 302)));
    let packed = |_| {
        let mut response = json("{}");
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    };
    assert_eq!(of(packed).await, Err(FetchError::Kind(host())));
    assert_eq!(
        of(|_| Response::new(Full::new(Bytes::from("{}")))).await,
        Err(FetchError::Kind(host()))
    );
}

#[tokio::test]
async fn a_certificate_is_for_the_name() {
    let world = world(&[&[THERE]], |_| json("{}")).await;
    let other = world.fetcher.json("https://other.example/").await;
    assert!(matches!(other, Err(FetchError::Connect(..))), "{other:?}");
    assert_eq!(world.served.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_host_is_asked_a_few_times_a_minute() {
    let world = world(&[&[THERE]], |_| json("{}")).await;
    for number in 0..MAX_OF_HOST {
        let url = format!("https://keys.example/{number}");
        assert!(world.fetcher.json(&url).await.is_ok());
    }
    assert_eq!(
        world.fetcher.json(URL).await,
        Err(FetchError::Rate("keys.example".into()))
    );
    assert_eq!(world.served.load(Ordering::Relaxed), MAX_OF_HOST as usize);
}

/// RFC 8037, appendix A.2, and a second key.
fn set(number: usize) -> Response<Full<Bytes>> {
    let kid = format!("k{number}");
    json(format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}]}}"#
    ))
}

#[tokio::test]
async fn a_set_is_fetched_once_for_many_and_not_again_for_unknown_keys() {
    let world = world(&[&[THERE]], set).await;
    let sets = Arc::new(KeySets::new(world.fetcher));
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..50 {
        let sets = Arc::clone(&sets);
        waiting.spawn(async move { sets.get(URL, &format!("k{number}")).await });
    }
    while let Some(found) = waiting.join_next().await {
        assert!(found.unwrap().unwrap().keys.get("k0").is_some());
    }
    assert_eq!(world.served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_no_set_is_not_asked_for_again_at_once() {
    let world = world(&[&[THERE]], |_| {
        json(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#)
    })
    .await;
    let sets = KeySets::new(world.fetcher);
    for _ in 0..3 {
        assert!(sets.get(URL, "k").await.is_err());
    }
    assert_eq!(world.served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_key_that_is_exchanged_is_found_after_a_pause_and_a_set_outlives_a_failure() {
    let answer: Answer = |number| match number {
        0 | 1 => set(number),
        _ => json("no set"),
    };
    let world = world(&[&[THERE]], answer).await;
    let sets = KeySets::new(world.fetcher);
    let has = async |kid: &str, by| {
        let set = sets.get_later(URL, kid, by).await;
        set.map(|set| set.keys.get(kid).is_some())
    };
    let (later, day) = (keys::PAUSE, Duration::from_secs(86_400));
    assert_eq!(has("k0", Duration::ZERO).await, Ok(true));
    assert_eq!(has("k1", Duration::ZERO).await, Ok(false));
    assert_eq!(has("k1", later).await, Ok(true));
    // The third answer is none: what is known stays for its day.
    assert_eq!(has("k2", later * 3).await, Ok(false));
    assert_eq!(has("k1", later * 3).await, Ok(true));
    assert!(has("k1", later + day).await.is_err());
}
