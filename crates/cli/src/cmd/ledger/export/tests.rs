use agentwall_ledger::entry::{ActionText, Connect, DecisionRecord, Exec, Gap, SessionEnd};
use opentelemetry_proto::tonic::{common::v1::any_value, logs::v1::LogsData};

use super::*;

fn decision(verb: &str, resource: &str, effect: &str, by: &str) -> DecisionRecord {
    DecisionRecord {
        action: ActionText {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            bytes: None,
        },
        effect: effect.to_owned(),
        rule: Some("a|b=c\\d".to_owned()),
        reason: "no\nreason = \\ |".to_owned(),
        policy: "ab12".to_owned(),
        enforced_by: by.to_owned(),
        pid: Some(42),
        exe: Some("/bin/sh".to_owned()),
        ..DecisionRecord::default()
    }
}

fn with<T>(record: Record, ask: impl FnOnce(&Line<'_>) -> T) -> T {
    let entry = Entry {
        time: "2026-01-02T03:04:05.678Z".to_owned(),
        session: "20260102-0304-abcd".to_owned(),
        seq: 3,
        record,
    };
    let fields = serde_json::from_slice(&entry.to_bytes()).unwrap();
    ask(&Line {
        origin: "agentwall.local/x",
        index: 7,
        entry: &entry,
        agent: Some("claude"),
        fields: &fields,
    })
}

fn some() -> Vec<Record> {
    vec![
        Record::Decision(decision("file.read", "/etc/shadow", "deny", "seccomp")),
        Record::Decision(decision("file.write", "/w/a", "isolate", "overlay")),
        Record::Decision(decision("file.write", "/w/a", "deny", "kernel-audit")),
        Record::Decision(decision("dns.resolve", "dns:a.example", "ask", "egress")),
        Record::Decision(decision("tool.call", "tool:x", "deny", "mcp")),
        Record::Exec(Exec {
            decision: decision("process.exec", "/bin/ls", "allow", "seccomp"),
            argv: vec!["ls".to_owned(), "-l x".to_owned()],
            ..Exec::default()
        }),
        Record::Connect(Connect {
            decision: decision("net.connect", "tcp://a.example:443", "allow", "egress"),
            host: Some("a.example".to_owned()),
            ip: Some("192.0.2.1".to_owned()),
            port: 443,
        }),
        Record::Gap(Gap {
            lost: 3,
            reason: "r".to_owned(),
            ..Gap::default()
        }),
        Record::SessionEnd(SessionEnd::default()),
    ]
}

#[test]
fn an_ocsf_event_has_what_its_class_requires() {
    for record in some() {
        let event = with(record, ocsf::event);
        let number = |key: &str| {
            event[key]
                .as_u64()
                .unwrap_or_else(|| panic!("{key}: {event}"))
        };
        assert_eq!(
            number("type_uid"),
            number("class_uid") * 100 + number("activity_id")
        );
        assert_eq!(number("category_uid"), number("class_uid") / 1000);
        assert_eq!(number("time"), 1_767_323_045_678);
        assert!((1..=4).contains(&number("severity_id")));
        assert_eq!(event["metadata"]["version"], "1.3.0");
        assert!(event["metadata"]["product"]["vendor_name"].is_string());
        assert!(event["actor"]["app_name"] == "claude" && event["device"]["type_id"] == 0);
        // What the classes ask for beside that.
        let object = match number("class_uid") {
            1001 => Some(("file", ["name", "type_id"].as_slice())),
            1007 => Some(("process", ["uid", "file"].as_slice())),
            4001 => Some(("dst_endpoint", ["port"].as_slice())),
            4003 => Some(("query", ["hostname"].as_slice())),
            _ => None,
        };
        if let Some((object, keys)) = object {
            assert!(keys.iter().all(|k| !event[object][k].is_null()), "{event}");
            assert_eq!(event["metadata"]["profiles"][0], "security_control");
        }
    }
    let outcome = |record| {
        let event = with(record, ocsf::event);
        (
            event["action_id"].as_u64().unwrap(),
            event["disposition_id"].as_u64().unwrap(),
        )
    };
    let mut some = some().into_iter();
    let mut next = || outcome(some.next().unwrap());
    assert_eq!(
        [next(), next(), next(), next()],
        [(2, 2), (1, 4), (1, 17), (99, 14)]
    );
}

#[test]
fn a_foreign_reader_takes_the_otlp_lines() {
    for record in some() {
        let (value, said) = with(record, |line| (otel::logs(line), line.text()));
        let data: LogsData =
            serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
        let logs = &data.resource_logs[0];
        let record = &logs.scope_logs[0].log_records[0];
        assert_eq!(record.time_unix_nano, 1_767_323_045_678_000_000);
        assert_eq!(record.trace_id.len(), 16);
        let body = record.body.as_ref().and_then(|b| b.value.clone());
        assert_eq!(body, Some(any_value::Value::StringValue(said)));
        let attribute = |key: &str| {
            let found = record.attributes.iter().find(|a| a.key == key);
            found.and_then(|a| a.value.as_ref()?.value.clone())
        };
        assert_eq!(
            attribute("agentwall.index"),
            Some(any_value::Value::IntValue(7))
        );
        // Nothing was left out silently: what is written again is what was read.
        let again = serde_json::to_value(&data).unwrap();
        let attributes =
            |v: &Value| v["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["attributes"].clone();
        assert_eq!(attributes(&again), attributes(&value));
    }
}

#[test]
fn a_cef_line_is_one_line_with_a_header_of_eight_parts() {
    for record in some() {
        let said = with(record, cef::line);
        assert!(!said.contains(['\n', '\r']), "{said}");
        // Bars and equals signs that are not escaped.
        let mut bars = 0;
        let mut escaped = false;
        let mut extension = String::new();
        for c in said.chars() {
            if bars == 7 {
                extension.push(c);
            }
            bars += usize::from(c == '|' && !escaped && bars < 7);
            escaped = c == '\\' && !escaped;
        }
        assert_eq!(bars, 7, "{said}");
        assert!(
            extension.starts_with("rt=1767323045678 externalId=agentwall.local/x/7 "),
            "{said}"
        );
    }
    let said = with(some().remove(0), cef::line);
    assert!(
        said.contains("reason=no\\nreason \\= \\\\ | ") && said.contains("cs3=a|b\\=c\\\\d "),
        "{said}"
    );
}
