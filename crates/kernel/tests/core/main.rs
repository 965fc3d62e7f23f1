//! The decision core in BPF against the table walker of the engine: vectors, generated policies, edges,
//! exchanged tables, and words that are no table. It runs natively through `BPF_PROG_TEST_RUN`.
//!
//!     cargo test -p agentwall-kernel --test core [NAME …]
//!
//! Needs root. Where programs may not be loaded every case is counted as skipped, with the kernel's reason.
//! `KERNEL_QUESTIONS` is how many generated questions are asked.

mod abi;
mod asked;
mod edges;
mod names;
mod parity;
mod swap;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

/// Names and functions; a case that panics failed.
const CASES: &[(&str, fn())] = &[
    ("abi_is_the_objects", abi::abi_is_the_objects),
    (
        "events_are_read_as_the_object_writes_them",
        abi::events_are_read_as_the_object_writes_them,
    ),
    ("vectors_hold", parity::vectors_hold),
    (
        "generated_questions_agree",
        parity::generated_questions_agree,
    ),
    ("texts_of_all_lengths", edges::texts_of_all_lengths),
    (
        "texts_anywhere_in_the_buffer",
        edges::texts_anywhere_in_the_buffer,
    ),
    ("lines_of_all_lengths", edges::lines_of_all_lengths),
    ("too_much_is_not_decided", edges::too_much_is_not_decided),
    ("verification_stays_cheap", edges::verification_stays_cheap),
    ("no_table_is_no_answer", edges::no_table_is_no_answer),
    (
        "words_that_are_no_table_end",
        edges::words_that_are_no_table_end,
    ),
    (
        "too_long_tables_are_refused",
        edges::too_long_tables_are_refused,
    ),
    (
        "tables_are_exchanged_whole",
        swap::tables_are_exchanged_whole,
    ),
    ("names_lead_to_their_door", names::names_lead_to_their_door),
    (
        "questions_lead_to_their_resolver",
        names::questions_lead_to_their_resolver,
    ),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let cases = CASES
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())));
    let refused = asked::Core::load().err().filter(asked::is_privilege);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, case) in cases {
        if let Some(error) = &refused {
            println!("skip(this user may not load BPF programs: {error}) {name}");
            skipped += 1;
        } else if catch_unwind(AssertUnwindSafe(case)).is_ok() {
            println!("ok {name}");
            passed += 1;
        } else {
            println!("FAIL {name}");
            failed += 1;
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}
