//! Where names are spoken of: wrong command lines, questions, refusals, and a terminal. Nothing that
//! is shown can act on the terminal, and JSON stays JSON.

use agentwall_tests::World;

use crate::{
    kit::{Fault, Verdict, bytes, changed, ids, ledger_verifies, need, run, say, session, wall},
    names::{ODD, ledger_lines, make_odd, word},
    tools::Running,
};

const ASK: &str = "  - { id: asked, priority: 30, action: [file.write, file.create], resource: \"${workspace}/asked*\", effect: ask, reason: \"A person decides.\" }\n  - { id: denied, priority: 30, action: [file.write, file.create], resource: \"${workspace}/no*\", effect: deny, reason: \"Not here.\" }\n  - { id: own-binary, priority: 90, action: [process.exec, file.read, file.exec], resource: \"{bin}/**\", effect: allow }\n";

/// All cases of this theme.
pub fn cases() -> Vec<Fault> {
    vec![
        Fault::new("names/on-the-command-line", command_line),
        Fault::new("names/in-questions-and-refusals", questions).rules(ASK),
        Fault::new("names/in-reasons", reasons).rules(ASK),
        Fault::new("names/on-a-terminal", terminal),
    ]
}

/// Wrong command lines with such words.
fn command_line(w: &World) -> Verdict {
    session(w, "echo x > {work}/new.txt")?.ended(0)?;
    let max = vec![b'p'; 5000];
    for odd in ODD.iter().copied().chain([max.as_slice()]) {
        let odd = bytes(odd);
        for verb in ["diff", "commit", "discard"] {
            let said = run(wall(w, [verb, "--"]).arg(odd))?;
            said.refused(2, &["changed nothing at", "agentwall diff --stat"])
                .map_err(|e| format!("{verb} -- {}: {e}", odd.display()))?;
        }
        for words in [
            &["approve"][..],
            &["reject"],
            &["ledger", "show", "--type"],
            &["ledger", "verify"],
            &["policy", "check"],
            &["policy", "explain"],
            &["run", "--ask-timeout"],
            &["nothing"],
        ] {
            let said = run(wall(w, words).arg(odd))?;
            let fail = |e: String| format!("{words:?} {}: {e}", odd.display());
            need(said.status != 0, "it went well").map_err(fail)?;
            need(!said.err().contains("panicked"), said.brief()).map_err(fail)?;
            said.harmless().map_err(fail)?;
        }
    }
    need(changed(w, &ids(w)?[0])?.len() == 1, "the change is lost")
}

fn questions(w: &World) -> Verdict {
    let mut script = String::from("cd {work}\n");
    for odd in ODD.iter().filter(|o| !o.is_empty()) {
        script += &format!("(echo EVIL > no-{} ) 2>/dev/null\n", word(odd));
    }
    script += "{wall} why --last > /dev/null && {wall} why --last --json; echo READY\n";
    for odd in &ODD[..6] {
        script += &format!("(echo EVIL > asked-{} ) 2>/dev/null &\n", word(odd));
    }
    script += "wait; echo DONE";
    let mut running = Running::start(w, "ask", &script, "READY")?;
    let mut asked = 0;
    let mut done = Vec::new();
    while asked < 6 {
        w.wait_pending("\"id\"")?;
        let text = say(w, "pending")?;
        text.harmless()?;
        let json = say(w, "pending --json")?;
        json.harmless()?;
        let list = json.json()?;
        for ask in list.as_array().ok_or("pending --json is no list")? {
            let id = ask["id"].as_str().ok_or("no id")?.to_owned();
            if done.contains(&id) {
                continue;
            }
            let reason = bytes(ODD[asked % 3]);
            let said = run(wall(w, ["reject", &id, "--reason"]).arg(reason))?;
            said.ended(0)?.harmless()?;
            done.push(id);
            asked += 1;
        }
    }
    running.until("DONE")?;
    let said = running.end()?;
    need(
        !said.out().contains('\u{1b}'),
        "agentwall why shows raw escape codes",
    )?;
    let shown = say(w, "ledger show")?;
    shown.ended(0)?.harmless()?.says(&["denied"])?;
    ledger_lines(w)?;
    ledger_verifies(w)
}

/// `agentwall why` inside the wall: the reason a person gave, and the name, both harmless.
fn reasons(w: &World) -> Verdict {
    let script = "cd {work}; echo READY; (echo x > asked-1) 2>/dev/null; {wall} why --last; {wall} why --last --json; (echo x > no-$(printf '\\033[2J\\377')) 2>/dev/null; {wall} why --last; {wall} why --last --json; echo END";
    let mut running = Running::start(w, "why", script, "READY")?;
    let json = w.wait_pending("asked-1")?;
    let list: serde_json::Value = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    let id = list[0]["id"].as_str().ok_or("no id")?.to_owned();
    let reason = "no \u{1b}[2J\u{202e}\nrule: yes";
    run(&mut wall(w, ["reject", &id, "--reason", reason]))?
        .ended(0)?
        .harmless()?;
    running.until("END")?;
    let said = running.end()?;
    said.harmless()?;
    let lines = said.out();
    need(
        !lines.lines().any(|l| l.starts_with("rule: yes")),
        "a reason makes a line of its own",
    )?;
    need(
        lines.contains("denied") && lines.contains("asked-1"),
        said.brief(),
    )?;
    ledger_lines(w)
}

/// On a terminal the only escape codes are the wall's own colours.
fn terminal(w: &World) -> Verdict {
    session(
        w,
        &make_odd("printf 'x \\033[2J\\033]0;t\\007 \\342\\200\\256 \\377\\n' >"),
    )?
    .ended(0)?;
    for line in [
        "diff",
        "diff --patch",
        "diff --json",
        "sessions --all",
        "ledger show",
        "commit --stat",
        "commit --patch",
    ] {
        let command = w.fill(&format!("{{wall}} {line}"));
        let mut cmd = w.as_user("script");
        cmd.args(["-qec", &command, "/dev/null"])
            .stdin(std::process::Stdio::null());
        let said = run(&mut cmd)?;
        said.ended(0).map_err(|e| format!("{line}: {e}"))?;
        let text = said.out();
        need(
            text.contains("odd-") || line.starts_with('s') || line.starts_with('l'),
            format!("{line}: {}", said.brief()),
        )?;
        let bare = without_colours(&text);
        let bad = bare.chars().find(|c| {
            (c.is_control() && !matches!(c, '\n' | '\t' | '\r'))
                || matches!(c, '\u{202a}'..='\u{202e}')
        });
        need(
            bad.is_none(),
            format!("{line}: a raw {bad:?} reaches the terminal"),
        )?;
    }
    Ok(())
}

/// Text without SGR sequences of digits.
fn without_colours(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_digit());
        match end.filter(|e| after[*e..].starts_with('m')) {
            Some(end) => rest = &after[end + 1..],
            None => {
                out.push('\u{1b}');
                rest = after;
            }
        }
    }
    out + rest
}
