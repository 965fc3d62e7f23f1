//! OCSF 1.3.0 (schema.ocsf.io), profile `security_control`: decisions about files, programs and the network as
//! events of those classes, everything else as a base event. The entry itself is in `unmapped`.

use agentwall_ledger::{Record, entry::DecisionRecord};
use serde_json::{Value, json};

use super::{Line, Outcome};

const VERSION: &str = "1.3.0";

/// The class of an event and what was done: `class_uid`, `activity_id`, the activity's name.
type Class = (u32, u32, &'static str);

const FILE: u32 = 1001;
const PROCESS: u32 = 1007;
const NETWORK: u32 = 4001;
const DNS: u32 = 4003;
/// The base event.
const OTHER: Class = (0, 99, "Other");

fn class(verb: &str) -> Class {
    match verb {
        "file.create" => (FILE, 1, "Create"),
        "file.read" => (FILE, 2, "Read"),
        "file.write" | "file.commit" => (FILE, 3, "Update"),
        "file.delete" => (FILE, 4, "Delete"),
        "file.rename" => (FILE, 5, "Rename"),
        "file.chmod" => (FILE, 6, "Set Attributes"),
        "file.exec" => (FILE, 99, "Map As Code"),
        "device.open" => (FILE, 14, "Open"),
        "process.exec" => (PROCESS, 1, "Launch"),
        "process.trace" => (PROCESS, 3, "Open"),
        "process.signal" => (PROCESS, 99, "Signal"),
        "net.connect" => (NETWORK, 1, "Open"),
        "net.send" => (NETWORK, 6, "Traffic"),
        "net.listen" => (NETWORK, 7, "Listen"),
        "dns.resolve" => (DNS, 1, "Query"),
        _ => OTHER,
    }
}

/// The event of an entry.
pub fn event(line: &Line<'_>) -> Value {
    let decision = line.entry.record.decision();
    let (class, activity, activity_name) = decision.map_or(OTHER, |d| self::class(&d.action.verb));
    // The base event has no name for what it is about.
    let activity_name = match class {
        0 => line.what(),
        _ => activity_name,
    };
    let severity = match (&line.entry.record, line.outcome()) {
        (Record::Gap(_), _) => 4,
        (Record::Finding(_), _) => 3,
        (_, Some(Outcome::Blocked | Outcome::Logged)) => 2,
        _ => 1,
    };
    let mut event = json!({
        "class_uid": class,
        "category_uid": class / 1000,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": class * 100 + activity,
        "time": line.unix_ms(),
        "severity_id": severity,
        "message": line.text(),
        "metadata": {
            "version": VERSION,
            "product": { "name": "agentwall", "vendor_name": "AgentWall", "version": env!("CARGO_PKG_VERSION") },
            "uid": format!("{}/{}", line.origin, line.index),
            "event_code": line.entry.record.type_name(),
            "original_time": line.entry.time,
            "sequence": line.index,
            "log_name": line.origin,
        },
        "actor": { "app_name": line.agent.unwrap_or("unknown"), "session": { "uid": line.entry.session } },
        // What the device is like, the ledger does not tell; which one it is, the log's name does.
        "device": { "type_id": 0, "uid": line.origin },
        "unmapped": line.fields,
    });
    if let (Some(decision), Some(outcome)) = (decision, line.outcome()) {
        decided(&mut event, decision, outcome);
        about(&mut event, line, decision, class);
    }
    event
}

fn decided(event: &mut Value, decision: &DecisionRecord, outcome: Outcome) {
    let (action, disposition) = match outcome {
        Outcome::Allowed => (1, 1),
        Outcome::Isolated => (1, 4),
        Outcome::Logged => (1, 17),
        Outcome::Delayed => (99, 14),
        Outcome::Blocked => (2, 2),
    };
    event["metadata"]["profiles"] = json!(["security_control"]);
    event["action_id"] = action.into();
    event["disposition_id"] = disposition.into();
    if let Some(rule) = &decision.rule {
        event["firewall_rule"] = json!({ "uid": rule, "name": rule, "desc": decision.reason });
    }
    if let Some(pid) = decision.pid {
        event["actor"]["process"] = json!({ "pid": pid });
        if let Some(exe) = &decision.exe {
            event["actor"]["process"]["file"] = file(exe);
        }
    }
}

fn about(event: &mut Value, line: &Line<'_>, decision: &DecisionRecord, class: u32) {
    let resource = &decision.action.resource;
    match class {
        FILE => event["file"] = file(resource),
        PROCESS => {
            // An object of this kind has a number: the one of the entry, where the kernel's is unknown.
            let mut process =
                json!({ "uid": format!("{}/{}", line.origin, line.index), "file": file(resource) });
            if let Some(pid) = decision.pid {
                process["pid"] = pid.into();
            }
            if let Record::Exec(exec) = &line.entry.record {
                process["cmd_line"] = exec.argv.join(" ").into();
            }
            event["process"] = process;
        }
        NETWORK => {
            let mut to = json!({});
            if let Record::Connect(connect) = &line.entry.record {
                to["port"] = connect.port.into();
                if let Some(ip) = &connect.ip {
                    to["ip"] = ip.as_str().into();
                }
                if let Some(host) = &connect.host {
                    to["hostname"] = host.as_str().into();
                }
            } else {
                to["name"] = resource.as_str().into();
            }
            event["dst_endpoint"] = to;
        }
        DNS => {
            event["query"] =
                json!({ "hostname": resource.strip_prefix("dns:").unwrap_or(resource) });
        }
        _ => {}
    }
}

/// A file by its path; of what type it is, a decision need not know.
fn file(path: &str) -> Value {
    let name = path
        .rsplit('/')
        .next()
        .filter(|n| !n.is_empty())
        .unwrap_or("/");
    json!({ "path": path, "name": name, "type_id": 0 })
}
