//! The escape suite: attacks on the wall, each with an allowed neighbour in the same session.
//!
//! Run it with `cargo test -p agentwall-tests --test escape -- --help`. Cases are tables by theme;
//! attack programs are the C files in `attacks/`, compiled when the suite starts.

mod commit;
mod exec;
mod files;
mod kernel;
mod network;
mod process;
mod self_protection;

use std::path::Path;

fn main() {
    let attacks = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/escape/attacks"));
    let cases = || {
        let mut all = files::cases();
        all.extend(exec::cases());
        all.extend(network::cases());
        all.extend(process::cases());
        all.extend(self_protection::cases());
        all.extend(commit::cases());
        for case in &mut all {
            case.not_in_kernel = kernel::why_not(&case.name);
        }
        all
    };
    std::process::exit(agentwall_tests::main_for("escape", Some(attacks), cases));
}
