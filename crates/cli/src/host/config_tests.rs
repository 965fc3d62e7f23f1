use super::*;
use std::path::Path;

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nci:x:990:990::/srv/ci:/bin/sh\n";

fn parse(text: &str) -> Result<Config> {
    read("daemon.yaml", text.into(), PASSWD)
}

fn process(exe: &str, uid: u32) -> Process {
    Process {
        pid: 7,
        uid,
        exe: exe.into(),
        parent: 1,
        started: 1,
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let config = parse(
        "agentwall-daemon: 1\nring_bytes: 65536\nhold_seconds: 0\ngovern:\n  - name: builder\n    exe: /opt/agent*\n    \
         user: ci\n    policy: /etc/agentwall/b.yaml\n    mode: audit\n    workspace: /srv/ci\n  \
         - {name: other, policy: /p.yaml}\n",
    )
    .unwrap();
    assert_eq!(config.ring_bytes, Some(65536));
    assert_eq!(config.hold, Some(Duration::ZERO));
    let builder = config.named("builder").unwrap();
    assert!(builder.audit);
    assert_eq!(builder.user, Some((990, "/srv/ci".into())));
    assert_eq!(builder.workspace.as_deref(), Some(Path::new("/srv/ci")));
    let other = config.named("other").unwrap();
    assert!(!other.audit && other.exe.is_none());
    assert_eq!(parse("agentwall-daemon: 1\n").unwrap(), Config::default());
}

#[test]
fn both_conditions_hold_and_without_any_nobody_is_meant() {
    let config = parse(
        "agentwall-daemon: 1\ngovern:\n  - {name: a, exe: /opt/agent*, user: '990', policy: /p}\n  \
         - {name: b, user: ci, policy: /p}\n  - {name: c, policy: /p}\n",
    )
    .unwrap();
    let fits = |exe, uid| {
        let names = config.govern.iter().filter(|e| e.fits(&process(exe, uid)));
        names.map(|e| e.name.as_str()).collect::<String>()
    };
    assert_eq!(fits("/opt/agent-1", 990), "ab");
    assert_eq!(fits("/opt/agent-1", 0), "");
    assert_eq!(fits("/opt/agents/x", 990), "b");
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, said) in [
        ("", "agentwall-daemon: 1"),
        ("agentwall-daemon: 2\n", "from 1 to 1"),
        ("agentwall-daemon: 1\nhold_seconds: 601\n", "from 0 to 600"),
        (
            "agentwall-daemon: 1\ngovern: [{name: a, exe: agent, policy: /p}]\n",
            "exe: '**/agent'",
        ),
        ("govern: []\n", "needs 'agentwall-daemon'"),
        ("agentwall-daemon: 1\ngovren: []\n", "govern"),
        ("agentwall-daemon: 1\nring_bytes: 5000\n", "8192"),
        ("agentwall-daemon: 1\nring_bytes: -1\n", "from 4096"),
        ("agentwall-daemon: 1\ngovern: {}\n", "govern is a list"),
        (
            "agentwall-daemon: 1\ngovern: [{name: a}]\n",
            "needs 'policy'",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{policy: /p}]\n",
            "needs 'name'",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{name: 'a b', policy: /p}]\n",
            "name",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{name: a, policy: p}]\n",
            "absolute path",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{name: a, policy: /p, user: nobody-here}]\n",
            "no user 'nobody-here'",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{name: a, policy: /p, exe: '/a[b'}]\n",
            "exe",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{name: a, policy: /p, mode: enforced}]\n",
            "enforce",
        ),
        (
            "agentwall-daemon: 1\ngovern: [{name: a, policy: /p}, {name: a, policy: /p}]\n",
            "already used",
        ),
        (
            "agentwall-daemon: 1\nagentwall-daemon: 1\n",
            "already on line 1",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text:?}: {error}");
        assert!(
            error.contains("the configuration was not loaded"),
            "{error}"
        );
    }
}
