use super::*;
use crate::session::NewSession;

fn process(pid: u32, parent: u32, namespace: Option<u64>) -> Process {
    Process {
        pid,
        parent,
        started: u64::from(pid),
        pid_namespace: namespace,
        ..Process::default()
    }
}

#[test]
fn what_runs_inside_a_running_session_is_governed_and_its_neighbours_are_not() {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    let new = |name: &str| NewSession {
        name: name.into(),
        ..NewSession::default()
    };
    let (mut session, lock) = Session::create(&state, new("claude")).unwrap();
    session.record.supervisor_pid = 100;
    session.record.policy_source = "p.yaml".into();
    session.save_soon().unwrap();
    // It has ended: its number may be anybody's.
    let (mut ended, gone) = Session::create(&state, new("old")).unwrap();
    ended.record.supervisor_pid = 200;
    ended.save_soon().unwrap();
    drop(gone);
    let (host, inside) = (Some(1), Some(2));
    let shot = Snapshot {
        processes: vec![
            process(1, 0, host),
            process(100, 1, host),
            process(110, 100, host),
            process(120, 110, inside),
            process(130, 120, inside),
            process(131, 130, Some(3)),
            process(132, 130, None),
            process(200, 1, host),
            process(210, 200, inside),
            // Older than the supervisor: not its child.
            Process {
                started: 5,
                ..process(140, 100, inside)
            },
        ],
        ..Snapshot::default()
    };
    let (sources, errors) = sources(&state, &shot).unwrap();
    assert!(errors.is_empty());
    let governed: Vec<u32> = shot
        .processes
        .iter()
        .map(|p| p.pid)
        .filter(|pid| sources.iter().any(|s| s.policy_of(*pid).is_some()))
        .collect();
    assert_eq!(governed, [120, 130, 131]);
    let policy = sources[0].policy_of(130).unwrap();
    assert_eq!((policy.by, policy.id.as_str()), ("session", session.id()));
    assert_eq!(
        (policy.name.as_str(), policy.source.as_str()),
        ("claude", "p.yaml")
    );
    drop(lock);
}

#[test]
fn what_the_kernel_wall_governs_has_the_policy_of_its_view() {
    use crate::control::{HostSession, ViewStatus};
    let session = |view, processes: &[u32]| HostSession {
        id: format!("s{view}"),
        view,
        processes: processes.to_vec(),
        ..HostSession::default()
    };
    let status = HostStatus {
        views: vec![ViewStatus {
            view: 1,
            subject: "agent:builder".into(),
            digest: "ab".into(),
            ..ViewStatus::default()
        }],
        // The policy of the other one is not known.
        sessions: vec![session(1, &[7, 8]), session(2, &[9])],
        ..HostStatus::default()
    };
    let kernel = Kernel::new(&status);
    for pid in [7, 8] {
        let found = kernel.policy_of(pid).unwrap();
        assert_eq!(
            (found.by, found.id.as_str(), found.digest.as_str()),
            ("kernel", "s1", "ab")
        );
    }
    assert!(kernel.policy_of(9).is_none() && kernel.policy_of(10).is_none());
}
