//! The daemon over a kernel that only remembers what it was told.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use agentwall_action::{Effect, Verb};
use agentwall_engine::Scope;
use agentwall_kernel::{
    Arrival, Captured, Counters, Door, Note, Programs, WallError,
    wire::{Event, Start, Unseen, Why},
};
use agentwall_ledger::entry::Gap;
use agentwall_policy::CompiledTable;

use super::*;
use crate::{
    control::{HostPolicy, HostRequest, Request, Response},
    host::{canary::Tried, told::tests as made},
    supervisor::Peer,
};

/// A kernel that remembers.
#[derive(Default)]
pub(crate) struct Fake {
    pub governed: Mutex<Vec<Task>>,
    pub tables: Mutex<BTreeMap<u32, (u64, u32, CompiledTable)>>,
    pub grants: Mutex<Vec<(Grant, u64, u64)>>,
    pub allows: Mutex<Vec<(Verb, u64)>>,
    /// For which starts which view stands ready.
    pub prepared: Mutex<BTreeMap<Start, Option<u32>>>,
    pub doors: Mutex<BTreeMap<u64, (u16, u16)>>,
    pub arrived: Mutex<Vec<(SocketAddr, Arrival, Captured)>>,
    /// It does not do what it is told.
    pub deaf: AtomicBool,
    /// It is the monitor.
    pub looks_on: AtomicBool,
}

impl Kernel for Fake {
    fn adopt(&self, pid: u32, view: u32, session: u64) -> Result<Vec<u32>, WallError> {
        let mut governed = lock(&self.governed);
        governed.retain(|t| t.pid != pid);
        if view != 0 && !self.deaf.load(Ordering::Relaxed) {
            governed.push(Task {
                session,
                born: 0,
                pid,
                view,
                of_the_wall: false,
                released: false,
            });
        }
        Ok(vec![pid])
    }

    fn release(&self, pid: u32) -> Result<Vec<u32>, WallError> {
        let mut governed = lock(&self.governed);
        for task in governed.iter_mut().filter(|t| t.pid == pid) {
            (task.view, task.session, task.released) = (0, 0, true);
        }
        Ok(vec![pid])
    }

    fn prepare(&self, start: &Start, view: Option<u32>) -> Result<(), WallError> {
        lock(&self.prepared).insert(start.clone(), view);
        Ok(())
    }

    fn unprepare(&self, start: &Start) -> Result<(), WallError> {
        lock(&self.prepared).remove(start);
        Ok(())
    }

    fn prepared(&self) -> Result<Vec<(Start, Option<u32>)>, WallError> {
        let prepared = lock(&self.prepared);
        Ok(prepared.iter().map(|(s, v)| (s.clone(), *v)).collect())
    }

    fn governed(&self) -> Result<Vec<Task>, WallError> {
        Ok(lock(&self.governed).clone())
    }

    fn install(
        &self,
        view: u32,
        table: &CompiledTable,
        generation: u64,
        flags: u32,
    ) -> Result<(), WallError> {
        lock(&self.tables).insert(view, (generation, flags, table.clone()));
        Ok(())
    }

    fn remove(&self, view: u32) -> Result<(), WallError> {
        lock(&self.tables).remove(&view);
        Ok(())
    }

    fn grant(&self, grant: &Grant, until: u64, uses: u64) -> Result<(), WallError> {
        lock(&self.grants).push((*grant, until, uses));
        Ok(())
    }

    fn granted(&self, grant: &Grant) -> Result<bool, WallError> {
        Ok(lock(&self.grants).iter().any(|(g, ..)| g == grant))
    }

    fn take_back(&self, grant: &Grant) -> Result<(), WallError> {
        lock(&self.grants).retain(|(g, ..)| g != grant);
        Ok(())
    }

    fn redeem(&self, grant: &Grant) -> Result<bool, WallError> {
        let mut grants = lock(&self.grants);
        let found = grants.iter().position(|(g, ..)| g == grant);
        if let Some(at) = found
            && grants[at].2 == 1
        {
            grants.remove(at);
        }
        Ok(found.is_some())
    }

    fn open_door(&self, door: &Door<'_>) -> Result<(), WallError> {
        lock(&self.doors).insert(door.session, (door.tcp, door.dns));
        Ok(())
    }

    fn close_door(&self, session: u64) -> Result<(), WallError> {
        lock(&self.doors).remove(&session);
        Ok(())
    }

    fn captured(&self, source: SocketAddr, how: Arrival) -> Result<Option<Captured>, WallError> {
        let arrived = lock(&self.arrived);
        Ok(arrived
            .iter()
            .find(|(s, h, _)| (*s, *h) == (source, how))
            .map(|(.., c)| *c))
    }

    fn forget_captured(&self, source: SocketAddr, how: Arrival) -> Result<(), WallError> {
        lock(&self.arrived).retain(|(s, h, _)| (*s, *h) != (source, how));
        Ok(())
    }

    fn note(&self, _: &Path, _: &Note) -> Result<(), WallError> {
        Ok(())
    }

    fn forget(&self, _: &Path) -> Result<(), WallError> {
        Ok(())
    }

    fn counters(&self) -> Result<Counters, WallError> {
        Ok(Counters::default())
    }

    fn allows(&self, _: u32) -> Result<Vec<(Verb, u64)>, WallError> {
        Ok(lock(&self.allows).clone())
    }

    fn hooks(&self) -> usize {
        60
    }

    fn kind(&self) -> Programs {
        match self.looks_on.load(Ordering::Relaxed) {
            true => Programs::Monitor,
            false => Programs::Wall,
        }
    }
}

const ROOT: Peer = Peer { uid: 0, pid: 1 };

/// A daemon, its kernel, its folder, and processes that sleep.
struct Host {
    kernel: Arc<Fake>,
    tmp: tempfile::TempDir,
    daemon: Option<Arc<Daemon>>,
    sleepers: Vec<std::process::Child>,
    names: bool,
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.sleepers {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Host {
    fn new() -> Host {
        let mut host = Host {
            kernel: Arc::default(),
            tmp: tempfile::tempdir().unwrap(),
            daemon: None,
            sleepers: Vec::new(),
            names: false,
        };
        std::fs::create_dir(host.tmp.path().join("run")).unwrap();
        host.policy("agentwall: 1\ndefault: deny\n");
        host.config("agentwall-daemon: 1\n");
        host.start(Found::Nothing);
        host
    }

    fn places(&self) -> Places {
        let at = |name: &str| self.tmp.path().join(name);
        Places {
            config: at("daemon.yaml"),
            pins: at("pins"),
            state: at("state"),
            run: at("run"),
        }
    }

    fn start(&mut self, found: Found) {
        let places = self.places();
        let opening = Opening {
            own: OwnFiles::of(&places, "/usr/bin/agentwall".into()),
            found,
            config: policy::configuration(&places.config).unwrap(),
            places,
            mode: Mode {
                audit: false,
                names: self.names,
            },
            programs: "ab".into(),
            proof: Proof {
                results: vec![Tried {
                    what: "read",
                    said: "refused".into(),
                    held: true,
                }],
            },
            holds: None,
            no_wall: self
                .kernel
                .looks_on
                .load(Ordering::Relaxed)
                .then(|| "no hooks".into()),
        };
        let kernel = Arc::<Fake>::clone(&self.kernel) as Arc<dyn Kernel>;
        let daemon = Arc::new(Daemon::start(kernel, opening).unwrap());
        daemon.serve_names();
        self.daemon = Some(daemon);
    }

    /// The daemon is gone without a word, and another one comes.
    fn restart(&mut self) {
        self.daemon = None;
        let book = Book::read(&self.places().book()).unwrap();
        self.start(Found::Same(book));
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn policy_path(&self) -> PathBuf {
        self.tmp.path().join("policy.yaml")
    }

    fn policy(&self, text: &str) {
        std::fs::write(self.policy_path(), text).unwrap();
    }

    fn config(&self, text: &str) {
        let text = text.replace("POLICY", &self.policy_path().to_string_lossy());
        std::fs::write(self.places().config, text).unwrap();
    }

    fn sleeper(&mut self) -> u32 {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        self.sleepers.push(child);
        pid
    }

    fn ask(&self, request: HostRequest) -> Response {
        self.daemon().respond(ROOT, Request::Host(request))
    }

    fn govern(&self, pid: u32) -> crate::control::Governed {
        let policy = HostPolicy::File(self.policy_path());
        match self.ask(HostRequest::Govern {
            pid: Some(pid),
            policy,
        }) {
            Response::Governed(governed) => governed,
            other => panic!("{other:?}"),
        }
    }

    /// An event of a governed process, as the programs would make it of the table in force.
    fn event(&self, number: u64, pid: u32, verb: Verb, path: &str) -> Event {
        let task = self.task(pid).unwrap();
        let inner = lock(&self.daemon().inner);
        let view = &inner.views[&task.view];
        Event {
            number,
            pid,
            view: task.view,
            session: task.session,
            generation: view.generation,
            ..made::answered(&view.ready, made::event(verb, path))
        }
    }

    fn task(&self, pid: u32) -> Option<Task> {
        lock(&self.kernel.governed)
            .iter()
            .find(|t| t.pid == pid && !t.released)
            .copied()
    }

    /// The ledger's entries: session and record.
    fn ledger(&self) -> Vec<(String, u64, Record)> {
        self.daemon().log.flush().unwrap();
        let state = State::open_at(&self.places().state).unwrap();
        let reader = state.reader().unwrap();
        let entries = (0..reader.size()).map(|i| {
            let entry = reader.told(i).unwrap().entry;
            (entry.session, entry.seq, entry.record)
        });
        entries.collect()
    }

    fn records_of(&self, session: &str) -> Vec<String> {
        let all = self.ledger().into_iter().filter(|(id, ..)| id == session);
        let numbered = all.enumerate().map(|(n, (_, seq, record))| {
            assert_eq!(seq, n as u64, "numbers have no gap");
            record.type_name().to_owned()
        });
        numbered.collect()
    }
}

fn error(response: Response) -> String {
    match response {
        Response::Error { text } => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_is_governed_when_the_kernel_says_so_and_not_before() {
    let mut host = Host::new();
    let pid = host.sleeper();
    let governed = host.govern(pid);
    assert_eq!(governed.processes, [pid]);
    let task = host.task(pid).unwrap();
    assert_eq!((task.view, task.session), (governed.view, 1));
    assert_eq!(
        host.records_of(&governed.session),
        ["policy", "session_start"]
    );
    let again = HostRequest::Govern {
        pid: Some(pid),
        policy: HostPolicy::File(host.policy_path()),
    };
    assert!(error(host.ask(again)).contains("governed already"));
    // A second tree under the same policy shares its view.
    let other = host.sleeper();
    assert_eq!(host.govern(other).view, governed.view);
    assert_eq!(host.task(other).unwrap().session, 2);

    host.kernel.deaf.store(true, Ordering::Relaxed);
    let third = host.sleeper();
    let request = HostRequest::Govern {
        pid: Some(third),
        policy: HostPolicy::File(host.policy_path()),
    };
    assert!(error(host.ask(request)).contains("does not confirm"));
    assert_eq!(lock(&host.daemon().inner).sessions.len(), 2);
}

#[test]
fn what_cannot_be_governed_is_refused_with_its_reason() {
    let mut host = Host::new();
    let pid = host.sleeper();
    let ask = |pid, policy| {
        let request = HostRequest::Govern {
            pid: Some(pid),
            policy,
        };
        error(host.ask(request))
    };
    let file = HostPolicy::File(host.policy_path());
    assert!(ask(1, file.clone()).contains("the daemon itself descends"));
    assert!(ask(u32::MAX / 2, file).contains("process"));
    assert!(ask(pid, HostPolicy::Named("nobody".into())).contains("no entry 'nobody'"));
    let missing = HostPolicy::File("/nowhere/p.yaml".into());
    assert!(ask(pid, missing).contains("/nowhere/p.yaml"));
    host.policy("agentwall: 1\ndefault: nonsense\n");
    let file = HostPolicy::File(host.policy_path());
    let request = HostRequest::Govern {
        pid: Some(pid),
        policy: file,
    };
    assert!(error(host.ask(request)).contains("default"));
    assert_eq!(host.task(pid), None);
}

#[test]
fn others_than_root_may_only_put_themselves_under_a_named_policy() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.config("agentwall-daemon: 1\ngovern:\n  - {name: builder, policy: POLICY}\n");
    assert!(matches!(
        host.ask(HostRequest::Reload),
        Response::Done { .. }
    ));
    let peer = Peer { uid: 4711, pid };
    let ask = |request| host.daemon().respond(peer, request);
    for request in [
        Request::Pending,
        Request::Host(HostRequest::Status),
        Request::Host(HostRequest::Reload),
        Request::Host(HostRequest::Stop { unload: true }),
        Request::Host(HostRequest::Release { pid }),
        Request::Reject {
            id: "host-1".into(),
            reason: None,
        },
    ] {
        assert!(error(ask(request)).contains("only root"));
    }
    assert_eq!(host.daemon().ending(), None);
    let govern = |pid, policy| ask(Request::Host(HostRequest::Govern { pid, policy }));
    let named = HostPolicy::Named("builder".into());
    assert!(error(govern(Some(1), named.clone())).contains("only root"));
    assert!(error(govern(None, HostPolicy::File(host.policy_path()))).contains("only root"));
    // A process of another user than the one who asked: its number was given anew.
    assert!(error(govern(None, named.clone())).contains("another user's"));
    assert_eq!(host.task(pid), None);
    let request = HostRequest::Govern {
        pid: Some(pid),
        policy: named,
    };
    let Response::Governed(governed) = host.ask(request) else {
        panic!("not governed");
    };
    assert_eq!(
        (governed.subject.as_str(), governed.processes),
        ("agent:builder", vec![pid])
    );
}

#[test]
fn a_bad_policy_keeps_the_old_one_and_a_good_one_takes_its_place_whole() {
    let mut host = Host::new();
    let pid = host.sleeper();
    let governed = host.govern(pid);
    let installed = || lock(&host.kernel.tables)[&governed.view].clone();
    let before = installed();
    host.policy("agentwall: 1\ndefault: nonsense\n");
    let said = error(host.ask(HostRequest::Reload));
    assert!(
        said.contains("nothing was changed") && said.contains("default"),
        "{said}"
    );
    assert_eq!(installed().0, before.0);
    let status = host.daemon().status().unwrap();
    assert!(
        status.trouble.iter().any(|t| t.contains("not taken")),
        "{status:?}"
    );

    host.policy("agentwall: 1\ndefault: allow\n");
    assert!(matches!(
        host.ask(HostRequest::Reload),
        Response::Done { .. }
    ));
    assert!(installed().0 > before.0);
    assert!(installed().2 != before.2);
    assert_eq!(
        host.records_of(&governed.session),
        ["policy", "session_start", "policy"]
    );
    assert!(host.daemon().status().unwrap().trouble.is_empty());
    // Nothing new, nothing done.
    let now = installed().0;
    assert!(matches!(
        host.ask(HostRequest::Reload),
        Response::Done { .. }
    ));
    assert_eq!(installed().0, now);
    // A bad configuration keeps the former one.
    host.config("agentwall-daemon: 1\ngovern: [{name: a, policy: /nowhere.yaml}]\n");
    assert!(error(host.ask(HostRequest::Reload)).contains("the entry 'a'"));
}

#[test]
fn a_file_that_is_gone_leaves_its_own_policy_and_holds_up_no_other() {
    let mut host = Host::new();
    let pid = host.sleeper();
    let digest = host.govern(pid).digest;
    std::fs::remove_file(host.policy_path()).unwrap();
    match host.ask(HostRequest::Reload) {
        Response::Done { text } => assert!(text.contains("the files of 1 are gone"), "{text}"),
        other => panic!("{other:?}"),
    }
    let view = host.task(pid).unwrap().view;
    let inner = lock(&host.daemon().inner);
    assert_eq!(inner.views[&view].ready.digest(), digest);
}

#[test]
fn an_event_of_a_former_policy_is_told_in_its_words() {
    let mut host = Host::new();
    let pid = host.sleeper();
    let rule = |id: &str| {
        format!(
            "agentwall: 1\ndefault: allow\nrules:\n  - {{id: {id}, action: file.read, resource: /k, \
             effect: deny}}\n"
        )
    };
    host.policy(&rule("old"));
    let governed = host.govern(pid);
    let event = host.event(0, pid, Verb::FileRead, "/k");
    host.policy(&rule("new"));
    host.ask(HostRequest::Reload);
    host.daemon().event(Ok(event));
    host.daemon()
        .event(Ok(host.event(1, pid, Verb::FileRead, "/k")));
    let rules: Vec<String> = (host.ledger().into_iter())
        .filter(|(id, ..)| *id == governed.session)
        .filter_map(|(.., record)| match record {
            Record::Decision(d) => d.rule,
            _ => None,
        })
        .collect();
    assert_eq!(rules, ["old", "new"]);
    let trail = std::fs::read_to_string(host.places().trail(1)).unwrap();
    assert!(
        trail.contains("\"old\"") && trail.contains("\"new\""),
        "{trail}"
    );
}

const ASKS: &str = "agentwall: 1\ndefault: deny\nrules:\n  \
    - {id: q, action: file.read, resource: '/q/**', effect: ask, reason: is it so}\n";

#[test]
fn a_question_is_asked_once_and_a_yes_is_a_grant_for_just_that() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.policy(ASKS);
    let governed = host.govern(pid);
    for number in 0..3 {
        host.daemon()
            .event(Ok(host.event(number, pid, Verb::FileRead, "/q/1")));
    }
    let Response::Pending(asks) = host.daemon().respond(ROOT, Request::Pending) else {
        panic!("no questions");
    };
    assert_eq!(asks.len(), 1);
    assert_eq!(
        (asks[0].id.as_str(), asks[0].session.as_str()),
        ("host-1", governed.session.as_str())
    );
    assert_eq!(asks[0].decision.effect, Effect::Ask);
    let approve = |id: &str, scope| {
        let id = id.to_owned();
        host.daemon().respond(
            ROOT,
            Request::Approve {
                id,
                scope,
                digest: None,
            },
        )
    };
    assert!(error(approve("host-9", Scope::Once)).contains("no question host-9"));
    assert!(error(approve("host-1", Scope::Pattern("/**".into()))).contains("one object"));
    assert!(lock(&host.kernel.grants).is_empty());
    assert!(matches!(
        approve("host-1", Scope::Once),
        Response::Done { .. }
    ));
    let (grant, until, uses) = lock(&host.kernel.grants)[0];
    assert_eq!((grant.session, grant.verb, uses), (1, Verb::FileRead, 1));
    assert_eq!(grant.identity, made::event(Verb::FileRead, "").identity);
    assert!(until > boot_ns() && until <= boot_ns() + Duration::from_secs(600).as_nanos() as u64);
    assert!(
        host.records_of(&governed.session)
            .contains(&"approval".to_owned())
    );
    // Answered is answered.
    assert!(error(approve("host-1", Scope::Once)).contains("no question"));
    // Another policy is another question: what was permitted is taken back.
    host.policy(&format!(
        "{ASKS}  - {{id: z, action: file.read, resource: /z, effect: deny}}\n"
    ));
    host.ask(HostRequest::Reload);
    assert!(lock(&host.kernel.grants).is_empty());
}

#[test]
fn a_no_is_read_by_the_agent_and_a_denial_meanwhile_is_not_approved_away() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.policy(ASKS);
    host.govern(pid);
    host.daemon()
        .event(Ok(host.event(0, pid, Verb::FileRead, "/q/1")));
    let reject = Request::Reject {
        id: "host-1".into(),
        reason: Some("not today".into()),
    };
    assert!(matches!(
        host.daemon().respond(ROOT, reject),
        Response::Done { .. }
    ));
    let trail = std::fs::read_to_string(host.places().trail(1)).unwrap();
    assert!(
        trail
            .lines()
            .last()
            .unwrap()
            .contains("not today (is it so)"),
        "{trail}"
    );
    host.daemon()
        .event(Ok(host.event(1, pid, Verb::FileRead, "/q/1")));
    host.policy("agentwall: 1\ndefault: deny\n");
    host.ask(HostRequest::Reload);
    let approve = Request::Approve {
        id: "host-2".into(),
        scope: Scope::Session,
        digest: None,
    };
    assert!(error(host.daemon().respond(ROOT, approve)).contains("denies it"));
    assert!(lock(&host.kernel.grants).is_empty());
}

#[test]
fn who_starts_again_knows_what_stands() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.policy(ASKS);
    let governed = host.govern(pid);
    host.daemon()
        .event(Ok(host.event(0, pid, Verb::FileRead, "/q/1")));
    let approve = Request::Approve {
        id: "host-1".into(),
        scope: Scope::Session,
        digest: None,
    };
    host.daemon().respond(ROOT, approve);
    host.daemon().tick(true);
    let before = lock(&host.kernel.tables).clone();
    host.restart();
    let after = lock(&host.kernel.tables).clone();
    assert_eq!(
        after[&governed.view].0, before[&governed.view].0,
        "nothing was put in anew"
    );
    // Number 1 was lost while no daemon was there.
    let event = host.event(2, pid, Verb::FileDelete, "/x");
    host.daemon().event(Ok(event));
    let types = host.records_of(&governed.session);
    assert_eq!(
        types,
        [
            "policy",
            "session_start",
            "decision",
            "approval",
            "decision"
        ]
    );
    // The yes of the former daemon ends with the policy all the same.
    host.policy("agentwall: 1\ndefault: deny\n");
    host.ask(HostRequest::Reload);
    assert!(lock(&host.kernel.grants).is_empty());
    let release = HostRequest::Release { pid };
    assert!(matches!(host.ask(release), Response::Done { .. }));
    assert_eq!(host.task(pid), None);
    assert_eq!(
        host.records_of(&governed.session).last().unwrap(),
        "session_end"
    );
    // Numbers of sessions and questions go on.
    let next = host.sleeper();
    host.govern(next);
    assert_eq!(host.task(next).unwrap().session, 2);
    let status = host.daemon().status().unwrap();
    assert!(status.enforcing && status.sessions.len() == 1);
}

#[test]
fn without_a_book_what_stands_is_named_unknown_and_can_be_released() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.govern(pid);
    std::fs::remove_file(host.places().book()).unwrap();
    host.restart();
    let status = host.daemon().status().unwrap();
    assert!(
        status
            .trouble
            .iter()
            .any(|t| t.contains("nothing is known")),
        "{status:?}"
    );
    // Its view is not given to another.
    let other = host.sleeper();
    assert!(host.govern(other).view != host.task(pid).unwrap().view);
    assert!(host.task(other).unwrap().session > host.task(pid).unwrap().session);
    assert!(matches!(
        host.ask(HostRequest::Release { pid }),
        Response::Done { .. }
    ));
    assert_eq!(host.task(pid), None);
    assert!(host.task(other).is_some());
}

#[test]
fn a_policy_that_reads_otherwise_by_now_is_put_in_anew() {
    let mut host = Host::new();
    let pid = host.sleeper();
    let governed = host.govern(pid);
    let mut book = Book::read(&host.places().book()).unwrap().unwrap();
    book.views[0].digest = "other".into();
    book.write(&host.places().book()).unwrap();
    let before = lock(&host.kernel.tables)[&governed.view].0;
    host.daemon = None;
    let book = Book::read(&host.places().book()).unwrap();
    host.start(Found::Other(book));
    assert!(lock(&host.kernel.tables)[&governed.view].0 > before);
}

#[test]
fn a_heartbeat_has_the_newest_checkpoint_and_a_jump_of_the_clock_is_told_once() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.govern(pid);
    let before = host.ledger().len() as u64;
    host.daemon().heartbeat();
    lock(&host.daemon().inner).clock.put_forward(3_600_000);
    host.daemon().heartbeat();
    host.daemon().heartbeat();
    let told: Vec<Record> = (host.ledger().into_iter())
        .skip(before as usize)
        .map(|(.., record)| record)
        .collect();
    let [
        Record::Heartbeat(first),
        Record::Clock(jump),
        Record::Heartbeat(_),
        Record::Heartbeat(_),
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(first.size, before);
    assert_eq!(first.every_s, HEARTBEAT.as_secs());
    let state = State::open_at(&host.places().state).unwrap();
    let reader = Reader::open(&state.ledger_dir()).unwrap();
    assert_eq!(first.root, reader.root_at(before).unwrap().to_base64());
    assert!((3_595_000..3_605_000).contains(&jump.jump_ms), "{jump:?}");
}

#[test]
fn losses_are_in_the_ledger_and_plain_allows_are_counted_once() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.govern(pid);
    host.daemon()
        .event(Ok(host.event(0, pid, Verb::FileRead, "/a")));
    host.daemon()
        .event(Ok(host.event(5, pid, Verb::FileRead, "/b")));
    {
        // A while has passed.
        let mut inner = lock(&host.daemon().inner);
        let later = Instant::now() + Duration::from_secs(10);
        let lost = inner.gaps.settle(0, true, later, boot_ns());
        assert_eq!(lost.map(|l| l.count), Some(4));
        inner
            .gaps
            .came(8, boot_ns(), later - Duration::from_secs(60));
    }
    *lock(&host.kernel.allows) = vec![(Verb::FileRead, 7)];
    host.daemon().tally();
    *lock(&host.kernel.allows) = vec![(Verb::FileRead, 9), (Verb::NetConnect, 1)];
    host.daemon().tally();
    host.daemon().tally();
    let tallies: Vec<String> = (host.ledger().into_iter())
        .filter_map(|(.., record)| match record {
            Record::Tally(t) => Some(format!("{:?}", t.allowed)),
            _ => None,
        })
        .collect();
    assert_eq!(
        tallies,
        [
            r#"{"file.read": 7}"#,
            r#"{"file.read": 2, "net.connect": 1}"#
        ]
    );
    let wrong = agentwall_kernel::wire::WireError::Length {
        expected: 9,
        found: 1,
    };
    host.daemon().event(Err(wrong));
    assert!(!host.daemon().status().unwrap().trouble.is_empty());
}

#[test]
fn the_monitor_asks_the_policy_itself_and_refuses_nothing() {
    let mut host = Host::new();
    host.kernel.looks_on.store(true, Ordering::Relaxed);
    host.restart();
    host.policy(&format!(
        "{ASKS}  - {{id: f, action: file.read, resource: /free, effect: allow}}\n"
    ));
    let pid = host.sleeper();
    let governed = host.govern(pid);
    assert!(governed.audit);
    assert_eq!(lock(&host.kernel.tables)[&governed.view].1, TABLE_AUDIT);
    // What a call named was not decided in the kernel.
    let named = |number, path| Event {
        effect: None,
        rule: None,
        audit: true,
        ..host.event(number, pid, Verb::FileRead, path)
    };
    host.daemon().event(Ok(named(0, "/q/a")));
    host.daemon().event(Ok(named(1, "/free")));
    host.daemon().event(Ok(named(2, "/free")));
    let unseen = |number| Event {
        why: Why::Unseen(Unseen::Uring),
        ..named(number, "/")
    };
    host.daemon().event(Ok(unseen(3)));
    host.daemon().event(Ok(unseen(4)));
    assert!(host.daemon().pending().is_empty());
    // A daemon that is killed forgets none of what was allowed.
    host.daemon().tick(true);
    host.restart();
    host.daemon().tally();
    let records: Vec<String> = (host.ledger().into_iter())
        .filter_map(|(.., record)| match record {
            Record::Decision(d) => Some(format!("{} by {}", d.effect, d.enforced_by)),
            Record::Tally(t) => Some(format!("{:?}", t.allowed)),
            Record::Gap(gap) => Some(gap.reason),
            _ => None,
        })
        .collect();
    assert_eq!(
        records,
        [
            "ask by monitor",
            "from now on what is done by io_uring, but for TCP, is not seen",
            r#"{"file.read": 2}"#
        ]
    );
    let status = host.daemon().status().unwrap();
    assert!(status.audit && !status.enforcing && status.no_wall.is_some());
    assert!(host.daemon().in_a_line().starts_with("audit only"));
    // A policy that has to be enforced is not taken.
    host.policy("agentwall: 1\nrequire: {enforcement: race}\ndefault: deny\n");
    let pid = host.sleeper();
    let policy = HostPolicy::File(host.policy_path());
    let said = host.ask(HostRequest::Govern {
        pid: Some(pid),
        policy,
    });
    assert!(matches!(said, Response::Error { text } if text.contains("requires enforcement")));
}

#[test]
fn a_loss_is_an_entry_with_its_time() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.govern(pid);
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    lock(&host.daemon().inner).gaps.came(3, boot_ns(), long_ago);
    host.daemon().tick(true);
    let gaps: Vec<Gap> = (host.ledger().into_iter())
        .filter_map(|(.., record)| match record {
            Record::Gap(gap) => Some(gap),
            _ => None,
        })
        .collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].lost, 3);
    assert!(gaps[0].from.is_some() && gaps[0].from <= gaps[0].to);
    assert_eq!(host.daemon().status().unwrap().lost, 3);
}

#[test]
fn who_the_configuration_means_is_found_and_an_ended_session_ends() {
    let mut host = Host::new();
    let copy = host.tmp.path().join("agent-one");
    std::fs::copy("/bin/sleep", &copy).unwrap();
    let exe = copy.canonicalize().unwrap();
    host.config(&format!(
        "agentwall-daemon: 1\ngovern:\n  - {{name: one, exe: '{}', policy: POLICY}}\n",
        exe.display()
    ));
    host.ask(HostRequest::Reload);
    let child = Command::new(&copy).arg("1000").spawn().unwrap();
    let pid = child.id();
    host.sleepers.push(child);
    let bystander = host.sleeper();
    // Until its program is seen, it is the one that starts it.
    while proc_exe(pid) != exe {
        std::thread::yield_now();
    }
    host.daemon().look_around();
    assert!(host.task(pid).is_some());
    assert_eq!(host.task(bystander), None);
    host.daemon().look_around();
    assert_eq!(lock(&host.daemon().inner).sessions.len(), 1);
    let id = host.daemon().status().unwrap().sessions[0].id.clone();
    // What a person releases is not taken back.
    assert!(matches!(
        host.ask(HostRequest::Release { pid }),
        Response::Done { .. }
    ));
    host.daemon().look_around();
    assert_eq!(host.task(pid), None);
    assert_eq!(
        host.records_of(&id),
        ["policy", "session_start", "policy", "session_end"]
    );
    // Nobody is under it; what stands ready for starts stays.
    let for_starts: Vec<u32> = (lock(&host.kernel.prepared).values().flatten())
        .copied()
        .chain([SELECTOR])
        .collect();
    let tables: Vec<u32> = lock(&host.kernel.tables).keys().copied().collect();
    assert_eq!(tables, for_starts);
    let id = host.govern(bystander).session;
    host.policy(ASKS);
    host.ask(HostRequest::Reload);
    host.daemon()
        .event(Ok(host.event(0, bystander, Verb::FileRead, "/q/1")));
    lock(&host.kernel.governed).clear();
    host.daemon().tick(true);
    // Its question ends with it.
    let types = host.records_of(&id);
    assert_eq!(
        types[types.len() - 2..],
        ["approval", "session_end"],
        "{types:?}"
    );
    let status = host.daemon().status().unwrap();
    assert!(status.sessions.is_empty() && status.pending == 0);
    assert_eq!(status.views.len(), 1);
}

fn proc_exe(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

#[test]
fn the_last_entry_says_what_becomes_of_the_wall() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.govern(pid);
    let stop = HostRequest::Stop { unload: true };
    assert!(matches!(host.ask(stop), Response::Done { .. }));
    let ending = host.daemon().ending().unwrap();
    assert!(ending.unload);
    host.daemon().close("removed", ending.by).unwrap();
    let last = host.ledger().pop().unwrap().2;
    let Record::KernelWall(wall) = last else {
        panic!("{last:?}");
    };
    assert_eq!(
        (wall.outcome.as_str(), wall.by.as_deref()),
        ("removed", Some("uid:0"))
    );
}

#[test]
fn refusals_under_no_policy_are_told_too() {
    let mut host = Host::new();
    let pid = host.sleeper();
    host.govern(pid);
    let event = Event {
        verb: None,
        why: Why::Never(agentwall_kernel::wire::Never::Bpf),
        ..host.event(0, pid, Verb::FileRead, "/x")
    };
    host.daemon().event(Ok(event));
    let found = host.ledger().into_iter().any(|(.., record)| {
        matches!(record, Record::Decision(d) if d.action.resource == "kernel:bpf" && d.effect == "deny")
    });
    assert!(found);
}

#[path = "meant_tests.rs"]
mod meant;
#[path = "names_tests.rs"]
mod names;
