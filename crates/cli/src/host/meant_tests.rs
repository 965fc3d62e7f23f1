//! Starts that the configuration means: which entry the kernel's table names, and what stands ready when.

use agentwall_action::{Action, Facts, Resource, Subject};
use agentwall_kernel::wire::Identity;
use agentwall_policy::By;

use super::*;
use crate::host::{
    config,
    meant::selector,
    proc::{self, Process},
};

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nci:x:990:990::/srv/ci:/bin/sh\n";

#[test]
fn the_kernel_is_told_the_same_entry_that_fits() {
    let text = "agentwall-daemon: 1\ngovern:\n  - {name: a, exe: '/opt/{one,two}*', user: ci, policy: /p}\n  \
        - {name: named, policy: /p}\n  - {name: b, exe: '**/agent', policy: /p}\n  \
        - {name: c, user: ci, policy: /p}\n  - {name: d, exe: /opt/**, policy: /p}\n  \
        - {name: e, user: root, policy: /p}\n";
    let config = config::read("daemon.yaml", text.into(), PASSWD).unwrap();
    let own = Path::new("/usr/bin/agentwall");
    let (table, entries) = selector(&config, own).unwrap().unwrap();
    let told = |uid: u32, exe: &str| {
        let action = Action {
            subject: Subject::agent("start"),
            verb: Verb::ProcessExec,
            resource: Resource::path(format!("/{uid}{exe}")),
            facts: Facts::default(),
        };
        let answer = table.answer(&action).unwrap();
        match (answer.effect, answer.by) {
            (Effect::Deny, By::Rule { layer: 0, rank }) => Some(entries[&rank].name.clone()),
            (Effect::Allow, _) => None,
            other => panic!("{other:?}"),
        }
    };
    let mut seen = BTreeSet::new();
    for uid in [0, 990, 99, 9900] {
        for exe in [
            "/opt/one",
            "/opt/two-x",
            "/opt/x/agent",
            "/agent",
            "/opt/three",
            "/bin/sh",
            "/-",
            "/opt",
        ] {
            let process = Process {
                pid: 7,
                uid,
                exe: exe.into(),
                parent: 1,
                started: 1,
            };
            let fits = config.govern.iter().find(|e| e.fits(&process));
            let name = told(uid, exe);
            assert_eq!(
                name.as_deref(),
                fits.map(|e| e.name.as_str()),
                "{uid} {exe}"
            );
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), 6, "each entry, and nobody: {seen:?}");
    // Root's own program of the wall is meant by nobody, also where all of root is.
    assert_eq!(told(0, "/usr/bin/agentwall"), None);
    assert_eq!(told(990, "/usr/bin/agentwall").as_deref(), Some("c"));
    let nobody = "agentwall-daemon: 1\ngovern: [{name: named, policy: /p}]\n";
    let config = config::read("daemon.yaml", nobody.into(), PASSWD).unwrap();
    assert!(selector(&config, own).unwrap().is_none());
}

fn reload(host: &Host, text: &str) {
    host.config(text);
    let said = host.ask(HostRequest::Reload);
    assert!(matches!(said, Response::Done { .. }), "{said:?}");
}

fn ready(host: &Host) -> Vec<(Start, Option<u32>)> {
    host.kernel.prepared().unwrap()
}

#[test]
fn a_policy_stands_ready_for_all_where_it_is_the_same_for_all() {
    let mut host = Host::new();
    assert!(ready(&host).is_empty());
    reload(
        &host,
        "agentwall-daemon: 1\ngovern:\n  - {name: a, exe: /opt/a, policy: POLICY}\n  \
         - {name: b, exe: /opt/b, policy: POLICY, mode: audit}\n",
    );
    let before = ready(&host);
    assert!(before.iter().all(|(s, v)| s.of.is_none() && v.is_some()));
    assert_eq!(before.len(), 2);
    let views: BTreeSet<u32> = before.iter().filter_map(|(_, v)| *v).collect();
    for view in views.iter().chain([&SELECTOR]) {
        assert!(lock(&host.kernel.tables).contains_key(view), "{view}");
    }
    // Nobody is under them, and they stay; also for the daemon that comes after this one.
    host.restart();
    let after = ready(&host);
    assert_eq!(
        after
            .iter()
            .filter_map(|(_, v)| *v)
            .collect::<BTreeSet<_>>(),
        views
    );
    assert!(after[0].0.generation > before[0].0.generation);
    reload(&host, "agentwall-daemon: 1\n");
    assert!(ready(&host).is_empty());
    assert!(lock(&host.kernel.tables).is_empty());
}

#[test]
fn a_policy_that_depends_on_the_folder_is_made_for_the_first_start_there() {
    let mut host = Host::new();
    host.policy(
        "agentwall: 1\ndefault: deny\nrules:\n  - {id: w, action: 'file.*', resource: '${workspace}/**', \
         effect: allow}\n",
    );
    reload(
        &host,
        "agentwall-daemon: 1\ngovern:\n  - {name: a, exe: /opt/a, policy: POLICY}\n",
    );
    assert!(ready(&host).is_empty());
    let generation = lock(&host.kernel.tables)[&SELECTOR].0;
    let refused = |number: u64, folder: &str| Event {
        number,
        view: 0,
        session: 0,
        generation,
        effect: Some(Effect::Deny),
        why: Why::Unprepared,
        rule: Some((0, 1)),
        identity: Identity::default(),
        ..made::event(Verb::ProcessExec, folder)
    };
    host.daemon().event(Ok(refused(0, "/srv/one")));
    let one = ready(&host);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].0.of, Some((0, b"/srv/one".to_vec())));
    let view = one[0].1.unwrap();
    // It stands in the ledger that it was refused, and why.
    let told = host.ledger().into_iter().any(
        |(.., record)| matches!(record, Record::Decision(d) if d.reason.contains("start it again")),
    );
    assert!(told);
    host.daemon().event(Ok(refused(1, "/srv/one")));
    assert_eq!(ready(&host).len(), 1);
    for n in 0..40 {
        host.daemon()
            .event(Ok(refused(2 + n, &format!("/srv/{n}"))));
    }
    assert_eq!(ready(&host).len(), 32, "the oldest go");
    let long = format!("/srv/{}", "x".repeat(300));
    host.daemon().event(Ok(refused(50, &long)));
    let trouble = host.daemon().status().unwrap().trouble;
    assert!(
        trouble.iter().any(|t| t.contains("workspace")),
        "{trouble:?}"
    );

    // A session that the kernel began is one like any other, also if its event was lost.
    let pid = host.sleeper();
    let (_, Some(view)) = ready(&host).pop().unwrap_or_else(|| panic!("{view}")) else {
        panic!("no view");
    };
    host.kernel.adopt(pid, view, STARTED_HERE + 5).unwrap();
    host.daemon().look_around();
    let id = lock(&host.daemon().inner).sessions[&(STARTED_HERE + 5)]
        .note
        .id
        .clone();
    assert_eq!(host.records_of(&id), ["policy", "session_start"]);
    host.restart();
    assert!(lock(&host.daemon().inner).next_session < STARTED_HERE);
    let released = host.ask(HostRequest::Release { pid });
    assert!(matches!(released, Response::Done { .. }), "{released:?}");
    let tasks = host.kernel.governed().unwrap();
    assert!(tasks.iter().any(|t| t.pid == pid && t.released));
    // It runs what the configuration means, and stays as it is.
    let exe = proc::process(pid).unwrap().exe;
    reload(
        &host,
        &format!(
            "agentwall-daemon: 1\ngovern:\n  - {{name: a, exe: '{}', policy: POLICY}}\n",
            exe.display()
        ),
    );
    host.daemon().look_around();
    assert_eq!(host.task(pid), None);
}
