//! ArcSight Common Event Format, version 0 (Implementation Standard, revision 25): a header of seven fields, then
//! keys and values.

use agentwall_ledger::Record;

use super::{Line, Outcome};

/// The line of an entry, without the end of the line.
pub fn line(line: &Line<'_>) -> String {
    let record = &line.entry.record;
    let severity = match (record, line.outcome()) {
        (Record::Gap(_), _) => 8,
        (Record::Finding(_), _) => 6,
        (_, Some(Outcome::Blocked)) => 6,
        (_, Some(Outcome::Logged | Outcome::Delayed)) => 4,
        _ => 1,
    };
    let mut text = format!(
        "CEF:0|AgentWall|agentwall|{}|{}|{}|{severity}|",
        env!("CARGO_PKG_VERSION"),
        header(record.type_name()),
        header(line.what()),
    );
    let mut pairs: Vec<(&str, String)> = vec![
        ("rt", line.unix_ms().to_string()),
        ("externalId", format!("{}/{}", line.origin, line.index)),
        ("cs1Label", "session".to_owned()),
        ("cs1", line.entry.session.clone()),
    ];
    if let Some(agent) = line.agent {
        pairs.extend([("cs2Label", "agent".to_owned()), ("cs2", agent.to_owned())]);
    }
    if let Some(decision) = record.decision() {
        pairs.extend([
            ("act", decision.effect.clone()),
            ("reason", decision.reason.clone()),
            ("cs3Label", "rule".to_owned()),
            (
                "cs3",
                decision
                    .rule
                    .clone()
                    .unwrap_or_else(|| "default".to_owned()),
            ),
            ("cs4Label", "policy".to_owned()),
            ("cs4", decision.policy.clone()),
            ("cs5Label", "enforcedBy".to_owned()),
            ("cs5", decision.enforced_by.clone()),
        ]);
        pairs.extend(decision.pid.map(|pid| ("spid", pid.to_string())));
        pairs.extend(decision.exe.clone().map(|exe| ("sproc", exe)));
        if decision.action.resource.starts_with('/') {
            pairs.push(("filePath", decision.action.resource.clone()));
        }
        if let Record::Connect(connect) = record {
            pairs.extend(connect.ip.clone().map(|ip| ("dst", ip)));
            pairs.extend(connect.host.clone().map(|host| ("dhost", host)));
            pairs.push(("dpt", connect.port.to_string()));
        }
    }
    pairs.push(("msg", line.text()));
    for (number, (key, text_of_it)) in pairs.into_iter().enumerate() {
        if number > 0 {
            text.push(' ');
        }
        text.push_str(&format!("{key}={}", value(&text_of_it)));
    }
    text
}

/// A field of the header: `\` and `|` are escaped, and it has one line.
fn header(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('|', "\\|");
    text.replace(|c: char| c.is_control(), " ")
}

/// A value: `\` and `=` are escaped, and ends of lines are `\n` and `\r`.
fn value(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('=', "\\=");
    let text = text.replace('\n', "\\n").replace('\r', "\\r");
    text.replace(|c: char| c.is_control(), " ")
}
