//! OpenTelemetry: a log record for each entry in OTLP's JSON encoding (opentelemetry-proto 1.x,
//! docs/specification.md "JSON Protobuf Encoding"), each line a whole `LogsData`, as the file exporter writes them.
//! Names of attributes are those of the semantic conventions 1.37.0; those of `gen_ai` are in development there.

use agentwall_ledger::{Record, hash::sha256_hex};
use serde_json::{Value, json};

use super::{Line, Outcome};

const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The data of one entry.
pub fn logs(line: &Line<'_>) -> Value {
    let (severity, name) = match (&line.entry.record, line.outcome()) {
        (Record::Gap(_), _) => (17, "ERROR"),
        (Record::Finding(_), _) => (13, "WARN"),
        (_, Some(Outcome::Blocked | Outcome::Logged | Outcome::Delayed)) => (13, "WARN"),
        _ => (9, "INFO"),
    };
    // 64-bit numbers are text in this encoding.
    let time = format!("{}000000", line.unix_ms().max(0));
    json!({ "resourceLogs": [{
        "resource": { "attributes": [
            text("service.name", "agentwall"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("agentwall.log", line.origin),
        ]},
        "scopeLogs": [{
            "scope": { "name": "agentwall.ledger", "version": env!("CARGO_PKG_VERSION") },
            "logRecords": [{
                "timeUnixNano": time,
                "observedTimeUnixNano": time,
                "severityNumber": severity,
                "severityText": name,
                "eventName": format!("agentwall.{}", line.entry.record.type_name()),
                "body": { "stringValue": line.text() },
                "attributes": attributes(line),
                "traceId": trace(line),
            }],
        }],
        "schemaUrl": SCHEMA,
    }]})
}

/// All entries of a session are one trace: the first half of the SHA-256 of log and session.
fn trace(line: &Line<'_>) -> String {
    let mut hash = sha256_hex(format!("{}\0{}", line.origin, line.entry.session).as_bytes());
    hash.truncate(32);
    hash
}

fn attributes(line: &Line<'_>) -> Vec<Value> {
    let mut all = vec![
        number("agentwall.index", line.index),
        text("gen_ai.conversation.id", &line.entry.session),
    ];
    all.extend(line.agent.map(|agent| text("gen_ai.agent.name", agent)));
    let Some(decision) = line.entry.record.decision() else {
        return all;
    };
    let resource = &decision.action.resource;
    all.extend([
        text("agentwall.action.verb", &decision.action.verb),
        text("agentwall.action.resource", resource),
        text("agentwall.effect", &decision.effect),
        text("agentwall.reason", &decision.reason),
        text("agentwall.policy", &decision.policy),
        text("agentwall.enforced_by", &decision.enforced_by),
    ]);
    all.extend(
        decision
            .rule
            .as_deref()
            .map(|rule| text("agentwall.rule", rule)),
    );
    all.extend(decision.pid.map(|pid| number("process.pid", pid.into())));
    match &line.entry.record {
        Record::Exec(exec) => {
            all.push(text("process.executable.path", resource));
            let values: Vec<Value> = exec
                .argv
                .iter()
                .map(|a| json!({ "stringValue": a }))
                .collect();
            all.push(json!({ "key": "process.command_args", "value": { "arrayValue": { "values": values } } }));
        }
        Record::Connect(connect) => {
            let address = connect.host.as_ref().or(connect.ip.as_ref());
            all.extend(address.map(|address| text("server.address", address)));
            all.extend(
                connect
                    .ip
                    .as_deref()
                    .map(|ip| text("network.peer.address", ip)),
            );
            all.push(number("server.port", connect.port.into()));
        }
        _ if resource.starts_with('/') => all.push(text("file.path", resource)),
        _ => {}
    }
    all
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}
