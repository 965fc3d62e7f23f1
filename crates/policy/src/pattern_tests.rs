use std::collections::BTreeSet;

use super::*;

fn vars() -> Variables {
    Variables {
        workspace: Some("/w".into()),
        home: Some("/h".into()),
        tmp: Some("/tmp".into()),
        state: None,
    }
}

fn parse(verb: Verb, text: &str) -> Result<ResourcePattern, GlobError> {
    let vars = vars();
    ResourcePattern::parse(text, &PatternContext::new(&vars).for_verbs(&[verb]))
}

#[track_caller]
fn check(verb: Verb, pattern: &str, yes: &[&str], no: &[&str]) {
    let p = parse(verb, pattern).unwrap_or_else(|e| panic!("{pattern}: {e} {:?}", e.suggestion));
    for (texts, expect) in [(yes, true), (no, false)] {
        for text in texts {
            let resource = Resource::parse(verb.family(), text).unwrap();
            assert_eq!(
                p.matches(&resource, &Facts::default()),
                expect,
                "{pattern} {text}"
            );
        }
    }
}

#[test]
fn endpoints() {
    let v = Verb::NetConnect;
    check(
        v,
        "tcp://*:443",
        &["tcp://a.b:443", "tcp://10.0.0.1:443", "tcp://[::1]:443"],
        &["udp://a.b:443", "tcp://a.b:80"],
    );
    check(
        v,
        "tcp://Example.ORG.:443",
        &["tcp://example.org:443"],
        &["tcp://x.example.org:443", "tcp://1.2.3.4:443"],
    );
    check(
        v,
        "tcp://*.example.org",
        &["tcp://a.example.org:1"],
        &["tcp://example.org:1", "tcp://a.b.example.org:1"],
    );
    check(
        v,
        "udp://x:10-20",
        &["udp://x:10", "udp://x:20"],
        &["udp://x:9", "udp://x:21", "tcp://x:15"],
    );
    check(
        v,
        "tcp://10.0.0.0/8:*",
        &["tcp://10.9.9.9:1", "tcp://[::ffff:10.0.0.1]:1"],
        &["tcp://11.0.0.1:1"],
    );
    check(
        v,
        "tcp://[fd00::/8]:443",
        &["tcp://[fd12::1]:443"],
        &["tcp://[fe80::1]:443"],
    );
    check(
        v,
        "tcp://localhost:80",
        &["tcp://localhost:80", "tcp://127.0.0.1:80", "tcp://[::1]:80"],
        &["tcp://10.0.0.1:80"],
    );
    check(
        v,
        "tcp://127.0.0.1:80",
        &["tcp://127.0.0.1:80", "tcp://localhost:80"],
        &["tcp://127.0.0.2:80"],
    );
    check(
        v,
        "cidr:private",
        &[
            "udp://10.0.0.1:5",
            "tcp://localhost:1",
            "tcp://a.localhost:1",
        ],
        &["tcp://a.org:1", "tcp://8.8.8.8:1"],
    );
    check(
        v,
        "cidr:public",
        &["tcp://8.8.8.8:1"],
        &["tcp://10.0.0.1:1", "tcp://a.org:1"],
    );
    check(v, "*", &["tcp://a:1", "udp://1.1.1.1:2"], &[]);
    let named = Resource::Endpoint(Endpoint {
        protocol: Protocol::Tcp,
        host: Some("a.org".into()),
        ip: Some("10.0.0.1".parse().unwrap()),
        port: 443,
    });
    let facts = Facts::default();
    assert!(parse(v, "cidr:private").unwrap().matches(&named, &facts));
    assert!(parse(v, "tcp://a.org:443").unwrap().matches(&named, &facts));
    assert!(
        !parse(v, "tcp://localhost:443")
            .unwrap()
            .matches(&named, &facts)
    );
}

#[test]
fn other_kinds() {
    check(
        Verb::IpcConnect,
        "unix:/run/*.sock",
        &["unix:/run/a.sock"],
        &["unix:/run/a/b.sock", "unix:@run"],
    );
    check(Verb::IpcConnect, "unix:@a*", &["unix:@ab"], &["unix:/a"]);
    check(Verb::IpcConnect, "unix:*", &["unix:@ab", "unix:/a/b"], &[]);
    check(
        Verb::IpcConnect,
        "label:secret",
        &["unix:/run/docker.sock", "unix:/h/.gnupg/S"],
        &["unix:/w/x"],
    );
    check(
        Verb::DnsResolve,
        "dns:*.Example.org",
        &["a.example.org"],
        &["example.org"],
    );
    check(
        Verb::ApiCall,
        "capability:transfer:*",
        &["capability:transfer:eu"],
        &["capability:transfer:eu:x"],
    );
    check(Verb::ToolCall, "Bash", &["Bash"], &["bash"]);
    check(
        Verb::HttpRequest,
        "https://a.org/v1/**",
        &["https://a.org/v1/x/y"],
        &["https://a.org/v2"],
    );
    check(
        Verb::FileRead,
        "label:secret",
        &["/h/.ssh/id", "/etc/shadow"],
        &["/h/x"],
    );
    check(
        Verb::FileRead,
        "{/a,${workspace}}/c",
        &["/a/c", "/w/c"],
        &["/b/c"],
    );
}

#[test]
fn labels_come_from_facts() {
    let p = parse(Verb::NetConnect, "label:trusted").unwrap();
    let resource = Resource::parse(VerbFamily::Net, "tcp://a:1").unwrap();
    let mut facts = Facts::default();
    assert!(!p.matches(&resource, &facts));
    facts.labels = BTreeSet::from(["trusted".to_owned()]);
    assert!(p.matches(&resource, &facts));
}

#[test]
fn what_cannot_fit_is_refused_with_the_likely_intention() {
    let cases = [
        (
            Verb::NetConnect,
            "/tmp/**",
            "a path never fits the action net.connect",
            "tcp://host:port, udp://host:port or cidr:private",
        ),
        (
            Verb::NetConnect,
            "example.org:443",
            "a path pattern begins with",
            "tcp://example.org:443",
        ),
        (
            Verb::NetConnect,
            "example.org",
            "a path pattern begins with",
            "tcp://example.org:443",
        ),
        (
            Verb::NetConnect,
            "tpc://example.org",
            "not a known scheme",
            "tcp://example.org",
        ),
        (
            Verb::NetConnect,
            "cidr:privat",
            "unknown address set",
            "did you mean 'private'?",
        ),
        (
            Verb::NetConnect,
            "cidr:10.0.0.1/8",
            "bits set",
            "cidr:10.0.0.0/8",
        ),
        (
            Verb::NetConnect,
            "tcp://10.*:80",
            "by network",
            "tcp://10.0.0.0/8:443",
        ),
        (
            Verb::NetConnect,
            "tcp://fd00::1:80",
            "brackets",
            "tcp://[::1]:443",
        ),
        (
            Verb::NetConnect,
            "tcp://a:99999",
            "a port is a number",
            "443, 8000-8999 or *",
        ),
        (
            Verb::NetConnect,
            "tcp://a:20-10",
            "wrong way round",
            "10-20",
        ),
        (
            Verb::NetConnect,
            "tcp://a.org/path",
            "no path",
            "tcp://a.org",
        ),
        (Verb::NetConnect, "tcp://", "host is missing", "tcp://*"),
        (
            Verb::DnsResolve,
            "example.org",
            "begins with",
            "dns:example.org",
        ),
        (
            Verb::DnsResolve,
            "tcp://example.org:443",
            "never fits",
            "dns:example.org",
        ),
        (
            Verb::IpcConnect,
            "/run/x.sock",
            "never fits",
            "unix:/run/x.sock",
        ),
        (
            Verb::FileRead,
            "src/main.rs",
            "begins with",
            "${workspace}/src/main.rs or **/src/main.rs",
        ),
        (
            Verb::FileRead,
            "tcp://a.org:443",
            "never fits",
            "tcp://a.org:443 with action net.connect, or a path such as /usr/**",
        ),
        (Verb::FileRead, "*.pem", "never match", "**/ before it"),
        (
            Verb::FileRead,
            "/tmp/",
            "do not end",
            "/** for everything below a directory",
        ),
        (
            Verb::FileRead,
            "${hom}/x",
            "unknown variable 'hom'",
            "did you mean 'home'?",
        ),
        (
            Verb::FileRead,
            "label:",
            "a label is one name",
            "label:secret",
        ),
        (
            Verb::FileRead,
            "label:a*",
            "a label is one name",
            "label:secret",
        ),
    ];
    for (verb, text, message, suggestion) in cases {
        let error = parse(verb, text).unwrap_err();
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.suggestion.as_deref(), Some(suggestion), "{text}");
    }
    assert!(parse(Verb::NetConnect, "tcp://bücher.example").is_err());
    assert!(parse(Verb::FileRead, "${state}/x").is_err());
}
