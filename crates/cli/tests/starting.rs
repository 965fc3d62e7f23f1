//! Walls that have to stand although the policy hides something they need.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, process::Command};

use support::{said, wall::Wall};

/// The program is shown at its own path under every policy, so the folders above it are not empty:
/// a proof that takes one of them for a hidden place fails a wall that holds.
#[test]
fn the_program_may_lie_where_the_policy_hides_everything() {
    let wall = Wall::new();
    let place = wall.host.home.join("tools");
    fs::create_dir_all(place.join("bin")).unwrap();
    fs::write(place.join("notes"), "not for the agent").unwrap();
    let program = place.join("bin/agentwall");
    fs::copy(env!("CARGO_BIN_EXE_agentwall"), &program).unwrap();
    // Nothing else is hidden: only a few hidden places are tried before a start.
    let rules = "  - { id: no-tools, priority: 10, action: file.read, resource: ['PLACE', 'PLACE/**'], effect: deny }
  - { id: the-rest, priority: 300, action: file.read, resource: '/**', effect: allow }";
    wall.policy(
        "policy.yaml",
        &rules.replace("PLACE", place.to_str().unwrap()),
    );

    let script = format!(
        "cat {0}/notes; ls {0}; agentwall why --help >/dev/null && echo HELP",
        place.display()
    );
    let there = wall.command(&[], &script);
    let mut command = Command::new(&program);
    command.args(there.get_args());
    command.env_clear();
    command.envs(there.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.current_dir(there.get_current_dir().unwrap());
    let ran = said(&mut command).code(0);

    assert_eq!(ran.out, "bin\nHELP\n", "{}", ran.err);
}
