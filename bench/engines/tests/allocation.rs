//! A verdict of the compiled policy allocates nothing, whatever the policy, and with conditions that
//! compare facts, labels and arguments with literals.

use agentwall_engines::oracle::{Fault, Plan, compiled, explore, ours, show};
use allocation_counter::measure;

#[test]
fn a_verdict_allocates_nothing() {
    let plan = Plan {
        policies: 3_000,
        rules: 12,
        requests: 16,
        seed: 7,
    };
    let (mut verdicts, mut interpreted) = (0u64, 0u64);
    let outcome = explore(plan, |case| {
        let policy = ours(case)?;
        let compiled = compiled(case, &policy);
        for (session, ask, _) in case.asks() {
            let action = ask.action(&case.sessions[session]);
            let info = measure(|| {
                std::hint::black_box(compiled[session].verdict(&action));
            });
            if info.count_total != 0 {
                return Err(format!("{} allocations for {action:?}", info.count_total));
            }
            verdicts += 1;
            // The counter counts: the interpreter's words are allocated.
            interpreted += measure(|| drop(policy.decide(&action))).count_total;
        }
        Ok(())
    });
    if let Err((why, case)) = outcome {
        panic!(
            "{why}\n{}",
            case.map_or_else(String::new, |c| show(&c, Fault::None))
        );
    }
    assert!(
        verdicts > 10_000 && interpreted >= verdicts,
        "{verdicts} {interpreted}"
    );
}
