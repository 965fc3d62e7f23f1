//! The wall itself: its state, key, policy, control channel, binary, and the approval of questions.

use std::{fs, path::Path, thread, time::Duration};

use agentwall_tests::{
    Case,
    Check::{self, NoEffect, NoSecret, Silent},
    Native, Outcome, World,
    case::says,
};

/// The most permissive policy there is.
const ALLOW_ALL: &str = "agentwall: 1\ndefault: allow\nrules: []\n";
const NO_WALL: Native = Native::Cannot("it is about the wall's own commands");
/// The wall's own binary may be started inside, for `agentwall why` and for the attacks.
const OWN_BINARY: &str = "  - { id: own-binary, priority: 90, action: [process.exec, file.read, file.exec], resource: \"{bin}/**\", effect: allow }\n";
const ASK: &str = "  - { id: asked, priority: 30, action: [file.write, file.create], resource: \"${workspace}/asked*\", effect: ask, reason: \"A person decides.\" }\n";
const NO_ENV: &str = "  - { id: no-env, priority: 30, action: \"file.*\", resource: \"${workspace}/**/.env\", effect: deny, reason: \"Environment files stay outside.\" }\n";

/// All cases of this theme.
pub fn cases() -> Vec<Case> {
    let mut all = state();
    all.extend(commands());
    all.extend(questions());
    all
}

fn plant(w: &World) -> Result<(), String> {
    w.put("state/canary", &format!("{}\n", w.secret));
    Ok(())
}

/// Copy layers of another session, where they lie when the state folder is inside an isolated tree.
const ELSEWHERE: &str = "home/.agentwall-layers/other-session/0/upper/canary";

fn plant_elsewhere(w: &World) -> Result<(), String> {
    w.put(ELSEWHERE, &format!("{}\n", w.secret));
    Ok(())
}

fn elsewhere_intact(w: &World, _: &Outcome) -> Result<(), String> {
    match fs::read_to_string(w.path(ELSEWHERE)) {
        Ok(text) if text.trim_end() == w.secret => Ok(()),
        other => Err(format!("another session's copy is {other:?}")),
    }
}

fn state() -> Vec<Case> {
    let reach = |name: &str, policy: &str, attack: &str| {
        let case = Case::new(
            format!("wall/state/{name}"),
            "leash GHSA-9x85-c42x-79cx; agentsh audit: control plane reachable from inside",
        )
        .attack(
            attack,
            [
                NoSecret,
                Check::Host(state_unread),
                Check::Host(state_intact),
            ],
        )
        .neighbour(
            "cat {work}/readme.txt; {kit}/writer append {work}/sub/file.txt",
            [says("WORKSPACE-OK")],
        )
        .with(|c| c.setup = Some(plant));
        if policy.is_empty() {
            case
        } else {
            case.with(|c| {
                c.policy = Some(policy.to_owned());
                c.neighbour = "cat {work}/readme.txt".into()
            })
        }
    };
    let read = "find {state}; cat {state}/*; grep -r . {state}; tar cf - -C {state} . | cat; {kit}/reader o-path {state}/canary; {kit}/reader bind-dir {state}/canary {scratch}; {kit}/reader proc-root {state}/canary; {kit}/reader uring {state}/canary; {kit}/reader umount {state}/canary";
    let write = "echo EVIL > {state}/canary; rm -rf {state}/*; mv {state} {state}.away; touch {state}/new; {kit}/writer rename-over {state}/canary {scratch}; chmod -R 777 {state}";
    vec![
        reach("read", "", read),
        reach("read-under-allow-all", ALLOW_ALL, read),
        reach("write", "", write),
        reach("write-under-allow-all", ALLOW_ALL, write),
        reach("parent-moved-under-allow-all", ALLOW_ALL, "cd {state}/../..; mv {state}/.. {scratch}/stolen; find {scratch}/stolen -name canary -exec cat {} +; ln -s {state} {scratch}/l; cat {scratch}/l/canary"),
        Case::new("wall/state/copies-elsewhere", "another session's copies, where a person would commit them")
            .attack("find {home}/.agentwall-layers; cat {home}/.agentwall-layers/*/0/upper/canary; echo EVIL > {home}/.agentwall-layers/other-session/0/upper/canary; rm -rf {home}/.agentwall-layers; mv {home}/.agentwall-layers {home}/stolen; cat {home}/stolen/*/0/upper/canary", [NoSecret, Check::Host(elsewhere_intact)])
            .neighbour("cat {work}/readme.txt", [says("WORKSPACE-OK")])
            .with(|c| { c.setup = Some(plant_elsewhere); c.policy = Some(ALLOW_ALL.into()) }),
        Case::new("wall/state/policy-file", "the policy changes under the running session")
            .attack("echo 'default: allow' > {policy}; {kit}/writer rename-over {policy} {scratch}; {kit}/writer append {policy}; {kit}/writer unlink {policy}; {kit}/reader open {key}", [NoSecret])
            .neighbour("{kit}/writer append {work}/readme.txt", [says("done append")]),
        Case::new("wall/state/policy-file-under-allow-all", "the policy changes under the running session")
            .attack("echo 'default: allow' > {policy}; {kit}/writer append {policy}; rm -f {policy}", [])
            .neighbour("cat {work}/readme.txt", [says("WORKSPACE-OK")])
            .with(|c| c.policy = Some(ALLOW_ALL.into())),
        Case::new("wall/state/control-socket", "the control channel reachable from inside")
            .attack(
                "for s in $(find {state} {run} /run /tmp /var/run -type s 2>/dev/null | grep -i -e wall -e {run} -e {state}); do {kit}/net unix-stream $s 0 {token} && echo EFFECT connected $s; done; grep -i agentwall /proc/net/unix | sed 's/^/EFFECT /'",
                [NoEffect],
            )
            .neighbour("{kit}/proc self-kill", [says("done")])
            .with(|c| c.policy = Some(ALLOW_ALL.into()))
            .native(NO_WALL),
        Case::new("wall/state/run-folder", "files planted where the wall may look")
            .attack("for d in /run/agentwall {run}/agentwall /var/lib/agentwall /etc/agentwall; do mkdir -p $d && echo EVIL > $d/control; done", [Check::Host(nothing_planted)])
            .neighbour("{kit}/writer mkdir {work}/a", [says("done mkdir")])
            .native(Native::Unsafe("it would plant files in /etc and /run")),
        Case::new("wall/state/binary", "the wall's binary replaced")
            .attack("cp /bin/true {scratch}/t; mv {scratch}/t {home}/bin/agentwall; echo x > {home}/bin/agentwall; rm -f {home}/bin/agentwall; chmod 4777 {home}/bin/agentwall", [])
            .neighbour("{kit}/writer append {work}/readme.txt", [says("done append")])
            .with(|c| { c.binary = Some("home/bin/agentwall"); c.setup = Some(own_binary) }),
        Case::new("wall/state/supervisor", "killing or reading the supervisor")
            .attack("kill -9 $PPID; for p in $(ls /proc | grep '^[0-9]'); do tr '\\0' ' ' < /proc/$p/cmdline | grep -q agentwall && kill -9 $p; done; {kit}/reader processes {key}; {kit}/proc environ", [NoSecret])
            .neighbour("{kit}/proc self-kill", [says("done")])
            .native(Native::Unsafe("it would end the harness"))
            .with(|c| { c.neighbour_first = true; c.may_die = true; c.after = Some(ledger_holds) }),
    ]
}

fn commands() -> Vec<Case> {
    let case = |name: &str, attack: &str, checks: Vec<Check>| {
        Case::new(
            format!("wall/commands/{name}"),
            "agentsh AGENTSH_SERVER; claude-code escapes offered to the model",
        )
        .rules(OWN_BINARY)
        .rules(NO_ENV)
        .attack(attack, checks)
        .neighbour("cat {work}/app/.env; {wall} why --last", [says("no-env")])
        .native(NO_WALL)
    };
    vec![
        case("commit-from-inside", "echo EVIL > {work}/readme.txt; {wall} commit; {wall} commit --all; cd {work} && {wall} commit -- readme.txt", vec![]),
        case("discard-from-inside", "{wall} discard; {wall} sessions; {wall} ledger show", vec![Check::Host(state_intact)]).with(|c| c.setup = Some(plant)),
        case("nested-run", "printf 'agentwall: 1\\ndefault: allow\\nrules: []\\n' > {work}/p.yaml; AGENTWALL_STATE={work}/s {wall} run --policy {work}/p.yaml --workspace {work} --keep -- cat {key}; AGENTWALL_STATE={scratch}/s {wall} run --policy {work}/p.yaml --workspace {work} --commit -- {kit}/writer write {out}/canary.txt", vec![NoSecret]),
        Case::new("wall/commands/advice", "advice that leads to a key, or is forged by the agent")
            .rules(OWN_BINARY)
            .attack("cat {key}; {wall} why --json; cat /dev/agentwall/advice.jsonl; echo EVIL > /dev/agentwall/advice.jsonl; rm -f /dev/agentwall/advice.jsonl; mv /dev/agentwall/decisions.jsonl /dev/agentwall/advice.jsonl", [NoSecret])
            .neighbour("echo x > /usr/share/agentwall-test; {wall} why --last", [says("instead:")])
            .native(NO_WALL),
        Case::new("wall/commands/intent", "an intent that is to permit something; another socket in the place of the wall's")
            .rules(OWN_BINARY)
            .attack("{wall} act --why 'the user has allowed it' -- cat {key}; {wall} act --why x -- sh -c 'cat {key}; echo EVIL > {out}/canary.txt'; cat {key}; rm -f /dev/agentwall/intent; mv /dev/agentwall/intent /dev/agentwall/gone; ln -sf {work}/readme.txt /dev/agentwall/intent; echo EVIL > /dev/agentwall/intent; : > /dev/agentwall/intent", [NoSecret])
            .neighbour("{wall} act --why x -- echo acted", [says("acted")])
            .native(NO_WALL),
        case("other-state", "AGENTWALL_STATE={work}/s {wall} selftest; AGENTWALL_STATE={work}/s {wall} approve 1; AGENTWALL_STATE={state} {wall} ledger verify; cat {state}/canary", vec![NoSecret]).with(|c| c.setup = Some(plant)),
    ]
}

fn questions() -> Vec<Case> {
    let put =
        |n: &str, t: &str| format!("echo {t} > {{work}}/{n}; echo status $?; cat {{work}}/{n}");
    let case = |name: &str, source| {
        Case::new(format!("wall/questions/{name}"), source)
            .rules(OWN_BINARY)
            .rules(ASK)
            .native(NO_WALL)
    };
    vec![
        case("approve-from-inside", "the agent presses the button itself")
            .attack(
                "(echo EVIL > {work}/asked1) & sleep 1
for i in 1 2 3 4; do {wall} pending; for id in $({wall} pending --json 2>/dev/null | grep -o '\"id\": *[^,}]*' | cut -d: -f2 | tr -d '\" ') 1 2 3; do {wall} approve $id; AGENTWALL_STATE={state} {wall} approve $id; done; sleep 0.3; done
wait; cat {work}/asked1",
                [Silent("EVIL".into())],
            )
            .neighbour(put("asked2", "APPROVED"), [says("APPROVED")])
            .with(|c| c.beside = Some(reject_then_approve)),
        case("approval-used-once", "agentsh H15; an approval is bound to the object and used once")
            .neighbour(put("asked1", "FIRST"), [says("FIRST")])
            .attack(put("asked1", "SECOND"), [Silent("SECOND".into())])
            .with(|c| { c.neighbour_first = true; c.beside = Some(approve_then_reject) }),
        case("approval-of-another-object", "an approval for one file does not open another")
            .neighbour(put("asked1", "FIRST"), [says("FIRST")])
            .attack(put("asked2", "SECOND"), [Silent("SECOND".into())])
            .with(|c| { c.neighbour_first = true; c.beside = Some(approve_then_reject) }),
        case("object-swapped-while-waiting", "the name means something else by the time of the approval")
            .rules("  - { id: asked-below, priority: 30, action: [file.write, file.create], resource: \"${workspace}/d/asked1\", effect: ask }\n")
            .attack("mkdir {work}/d; (echo SWAPPED > {work}/d/asked1) & sleep 1.5; mv {work}/d {work}/e; ln -s {out} {work}/d; wait; cp {work}/e/asked1 {work}/d/ 2>&1", [])
            .neighbour(put("sub/plain", "PLAIN"), [says("PLAIN")])
            .with(|c| { c.beside = Some(approve_late); c.limit = 60 }),
        case("terminal-injection", "file names with escape codes in the question")
            .attack("python3 -c 'open(\"{work}/asked-\\x1b[2J\\x1b]0;x\\x07\\nAPPROVED\\u202egnp\\x9b1m\", \"w\").write(\"EVIL\")'; grep -rh EVIL {work}", [Silent("EVIL".into())])
            .neighbour(put("plain", "PLAIN"), [says("PLAIN")])
            .with(|c| c.beside = Some(escaped_then_reject)),
        case("flood", "many questions at once")
            .attack("for i in $(seq 1 40); do (echo EVIL > {work}/asked-$i) & done; wait; cat {work}/asked-* 2>/dev/null", [Silent("EVIL".into())])
            .neighbour(put("plain", "PLAIN"), [says("PLAIN")])
            .with(|c| { c.beside = Some(reject_all); c.limit = 60 }),
        case("unanswered-at-end", "a question must not hold the session's end")
            .attack("(echo EVIL > {work}/asked1; cat {work}/asked1) & sleep 1; kill -9 $!; echo gave-up", [Silent("EVIL".into())])
            .neighbour(put("plain", "PLAIN"), [says("PLAIN")]),
    ]
}

/// The ids in the answer of `agentwall pending --json` whose object contains `needle`.
fn ids(json: &str, needle: &str) -> Vec<String> {
    let asks: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let about = |a: &&serde_json::Value| a["action"]["resource"].to_string().contains(needle);
    asks.iter()
        .filter(about)
        .filter_map(|a| Some(a["id"].as_str()?.to_owned()))
        .collect()
}

fn answer(w: &World, verb: &str, needle: &str) -> Result<(), String> {
    let json = w.wait_pending(needle)?;
    let id = ids(&json, needle)
        .pop()
        .ok_or_else(|| format!("no id in {json}"))?;
    let (status, out, err) = w.wall(&[verb, &id]);
    if status == 0 {
        Ok(())
    } else {
        Err(format!(
            "agentwall {verb} {id}: status {status}: {out}{err}"
        ))
    }
}

fn reject_then_approve(w: &World) -> Result<(), String> {
    w.wait_pending("asked1")?;
    thread::sleep(Duration::from_millis(3500)); // the attack presses all buttons meanwhile
    answer(w, "reject", "asked1")?;
    answer(w, "approve", "asked2")
}

fn approve_then_reject(w: &World) -> Result<(), String> {
    answer(w, "approve", "asked")?;
    thread::sleep(Duration::from_millis(300));
    answer(w, "reject", "asked")
}

fn approve_late(w: &World) -> Result<(), String> {
    w.wait_pending("asked1")?;
    thread::sleep(Duration::from_millis(2500));
    // Either refused at once because the object is gone, or approved for the old object: both are fine.
    let _ = answer(w, "approve", "asked1");
    thread::sleep(Duration::from_millis(300));
    while w.running.load(std::sync::atomic::Ordering::SeqCst) != 0 {
        let (_, json, _) = w.wall(&["pending", "--json"]);
        for id in ids(&json, "asked") {
            w.wall(&["reject", &id]);
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn escaped_then_reject(w: &World) -> Result<(), String> {
    let json = w.wait_pending("asked-")?;
    let (_, text, _) = w.wall(&["pending"]);
    for shown in [&json, &text] {
        if let Some(bad) = shown.chars().find(|c| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        }) {
            return Err(format!("a raw {bad:?} reaches the person's terminal"));
        }
        if shown
            .lines()
            .any(|l| l.trim_start().starts_with("APPROVED"))
        {
            return Err("a file name makes a line of its own".into());
        }
    }
    answer(w, "reject", "asked-")
}

fn reject_all(w: &World) -> Result<(), String> {
    w.wait_pending("asked-")?;
    thread::sleep(Duration::from_millis(500));
    for _ in 0..200 {
        if w.running.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let (_, json, _) = w.wall(&["pending", "--json"]);
        let found = ids(&json, "asked-");
        for id in &found {
            w.wall(&["reject", id]);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// No file of the state folder, as the host sees it, was shown inside.
fn state_unread(w: &World, o: &Outcome) -> Result<(), String> {
    let mut leaked = Vec::new();
    each_file(&w.path("state"), &mut |path, content| {
        let text = String::from_utf8_lossy(content);
        let line = text.lines().find(|l| l.len() >= 24).unwrap_or_default();
        if line.len() >= 24 && o.all().contains(line) {
            leaked.push(path.display().to_string());
        }
    });
    if leaked.is_empty() {
        Ok(())
    } else {
        Err(format!("state was read: {}", leaked.join(", ")))
    }
}

fn state_intact(w: &World, _: &Outcome) -> Result<(), String> {
    if w.read("state/canary").trim() != w.secret {
        return Err("the state folder was changed".into());
    }
    if w.path("state/new").exists() {
        return Err("a file was planted in the state folder".into());
    }
    Ok(())
}

fn each_file(dir: &Path, f: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(t) if t.is_dir() => each_file(&path, f),
            Ok(t) if t.is_file() => f(&path, &fs::read(&path).unwrap_or_default()),
            _ => {}
        }
    }
}

fn nothing_planted(w: &World, _: &Outcome) -> Result<(), String> {
    let run = w.path("run/agentwall/control");
    for path in [
        "/run/agentwall/control",
        "/var/lib/agentwall/control",
        "/etc/agentwall/control",
    ]
    .iter()
    .map(Path::new)
    .chain([run.as_path()])
    {
        if fs::read_to_string(path).is_ok_and(|t| t.contains("EVIL")) {
            return Err(format!("planted: {}", path.display()));
        }
    }
    Ok(())
}

fn own_binary(w: &World) -> Result<(), String> {
    let to = w.path("home/bin/agentwall");
    fs::create_dir_all(w.path("home/bin")).map_err(|e| e.to_string())?;
    if w.shared.wall.exists() {
        fs::copy(&w.shared.wall, &to)
            .map(drop)
            .map_err(|e| e.to_string())
    } else {
        w.script("home/bin/agentwall", "#!/bin/sh\n");
        Ok(())
    }
}

fn ledger_holds(w: &World, _: &Outcome) -> Result<(), String> {
    let (status, out, err) = w.wall(&["ledger", "verify"]);
    if status == 0 {
        Ok(())
    } else {
        Err(format!(
            "agentwall ledger verify: status {status}: {out}{err}"
        ))
    }
}
