//! Intents and what became of them, for a person.

use agentwall_ledger::Record;

/// One line about an entry of an action; empty for others.
pub fn summary(record: &Record) -> String {
    match record {
        Record::Intent(intent) => {
            let claims: Vec<String> = intent
                .claims
                .iter()
                .map(|c| format!("{} {}", c.verb, c.resource))
                .collect();
            let what = match &intent.tool {
                Some(tool) => format!("{tool} {}", intent.parameters),
                None => intent.parameters.clone(),
            };
            let why = match intent.why.is_empty() {
                true => String::new(),
                false => format!("; because: {}", intent.why),
            };
            let claims = match claims.is_empty() {
                true => "nothing".to_owned(),
                false => claims.join(", "),
            };
            format!(
                "{} by {}: {}; claims {claims}{why}",
                intent.action_id, intent.source, what
            )
        }
        Record::ActionStart(start) => {
            format!(
                "{} begins, sealed as entry {}",
                start.action_id, start.intent
            )
        }
        Record::KernelSummary(summary) => {
            let list = |counts: &std::collections::BTreeMap<String, u64>| {
                let each = counts.iter().map(|(what, n)| format!("{what} {n}"));
                each.collect::<Vec<_>>().join(", ")
            };
            let seen = match summary.events {
                0 => "nothing was seen".to_owned(),
                n => format!(
                    "{n} seen: {}; by {}",
                    list(&summary.counts),
                    list(&summary.attribution)
                ),
            };
            format!("{} {seen}", summary.action_id)
        }
        Record::ActionEnd(end) => {
            let exit = end.exit.map(|e| format!(", exit {e}")).unwrap_or_default();
            format!("{} {}{exit}", end.action_id, end.outcome)
        }
        Record::Finding(finding) => format!(
            "{}{}: {} {}; risk {}",
            finding
                .action_id
                .as_ref()
                .map(|id| format!("{id} "))
                .unwrap_or_default(),
            finding.kind,
            finding.verb,
            finding.resource,
            finding.risk
        ),
        _ => String::new(),
    }
}

/// Whether an entry is about the action that a person means: by its id, or by words of the intent, the actions
/// of which `known` keeps. Must see all entries in the order of the log.
pub fn means(record: &Record, text: &str, known: &mut std::collections::HashSet<String>) -> bool {
    if let Record::Intent(intent) = record {
        let words = [
            Some(&intent.why),
            Some(&intent.parameters),
            intent.tool.as_ref(),
            intent.call.as_ref(),
        ];
        let lower = text.to_lowercase();
        let said = |w: &&String| w.to_lowercase().contains(&lower);
        if intent.action_id == text || words.into_iter().flatten().any(|w| said(&w)) {
            known.insert(intent.action_id.clone());
        }
    }
    record.action_id().is_some_and(|id| known.contains(id))
}
