//! What hostile files may cost: memory, measured as the most that was allocated at once. One test, so that
//! nothing else allocates beside it.

mod support;

use agentwall_policy::{
    FileKind, FormatError, MAX_CASES, MAX_DIAGNOSTICS, MAX_FILE, MAX_FILE_STEPS, MAX_RULES,
    MAX_WARNINGS, Table, format, load, load_table, load_with_warnings,
};
use peak_alloc::PeakAlloc;
use support::{hostile::hostile, source, variables};

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// The most that reading one file may hold at once: the nodes of 4 MiB of short items, or the steps of
/// its patterns.
const MOST: usize = 768 << 20;

/// Runs it, and says what it held at once beyond what was there before.
fn cost<T>(run: impl FnOnce() -> T) -> (T, usize) {
    PEAK.reset_peak_usage();
    let before = PEAK.current_usage();
    let value = run();
    (value, PEAK.peak_usage().saturating_sub(before))
}

#[test]
fn what_hostile_files_cost_is_bounded() {
    let mut worst = (0, String::new());
    let mut see = |what: &str, name: &str, bytes: usize| {
        assert!(bytes <= MOST, "{what} of '{name}' held {bytes} bytes");
        if bytes > worst.0 {
            worst = (bytes, format!("{what} of '{name}'"));
        }
    };
    for (name, bytes) in hostile() {
        assert!(bytes.len() <= MAX_FILE + 1, "{name}");
        let file = source("p.yaml", bytes);
        // Laying out begins with loading.
        for kind in [FileKind::Policy, FileKind::Table] {
            let (outcome, held) = cost(|| format(&file, kind, &variables()));
            match outcome {
                Err(FormatError::Load(e)) => assert!(e.diagnostics().len() <= MAX_DIAGNOSTICS),
                other => panic!("{name}: {other:?}"),
            }
            see("reading", name, held);
        }
    }

    // Patterns that are small in the file and large in memory: the file bounds them together.
    let small = std::format!("\"/{}\",", "{?a,*b}".repeat(10));
    let rule = |n: usize| {
        std::format!(
            "- {{id: r{n}, effect: deny, action: file.read, resource: [{}]}}\n",
            small.repeat(100)
        )
    };
    let patterns = |n: usize| -> String {
        format!(
            "agentwall: 1\nrules:\n{}",
            (0..n).map(rule).collect::<String>()
        )
    };
    let (loaded, held) = cost(|| load(&[source("p.yaml", patterns(2))], &variables()).is_ok());
    see("loading", "a few wide patterns", held);
    assert!(loaded);
    let (loaded, held) = cost(|| load(&[source("p.yaml", patterns(10))], &variables()));
    see("loading", "many wide patterns", held);
    let error = loaded.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        error.contains(&format!("more than {MAX_FILE_STEPS} steps")),
        "{error}"
    );

    // As much as a file may hold, and all of it in order.
    let rules = |n: usize| -> String {
        let rule = |i| format!("- {{id: r{i}, effect: deny}}\n");
        format!(
            "agentwall: 1\nrules:\n{}",
            (0..n).map(rule).collect::<String>()
        )
    };
    let most = source("p.yaml", rules(MAX_RULES));
    let (loaded, held) = cost(|| load_with_warnings(&most, &variables()));
    see("loading", "the most rules", held);
    assert!(loaded.is_ok_and(|(p, w)| p.rules().count() == MAX_RULES && w.len() <= MAX_WARNINGS));
    let many = source("p.yaml", rules(20_000));
    let (text, held) = cost(|| format(&many, FileKind::Policy, &variables()));
    see("laying out", "many rules", held);
    assert!(text.is_ok_and(|t| t.lines().count() == 20_002));
    assert!(load(&[source("p.yaml", rules(MAX_RULES + 1))], &variables()).is_err());

    // One line that holds the whole file.
    let line: String = (0..40_000)
        .map(|i| format!("{{id: r{i}, effect: deny, reason: ä}},"))
        .collect();
    let line = source("p.yaml", format!("{{agentwall: 1, rules: [{line}]}}"));
    let (text, held) = cost(|| format(&line, FileKind::Policy, &variables()));
    see("laying out", "one line", held);
    assert!(text.is_ok_and(|t| t.lines().count() == 40_002));

    let case = "- { action: file.read, resource: /x, expect: deny, note: n } # c\n";
    let table = source("t.yaml", case.repeat(MAX_CASES));
    let (text, held) = cost(|| format(&table, FileKind::Table, &variables()));
    see("laying out", "the most cases", held);
    assert!(text.is_ok_and(|t| t.as_bytes() == table.text));
    let (cases, held) = cost(|| load_table(&table, &variables()).map(|t: Table| t.cases.len()));
    see("loading", "the most cases", held);
    assert_eq!(cases, Ok(MAX_CASES));
    println!("most held at once: {} MiB, {}", worst.0 >> 20, worst.1);
}
