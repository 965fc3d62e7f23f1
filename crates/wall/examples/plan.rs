//! Prints the file view that a policy gets on this host: `plan POLICY WORKSPACE`.

use agentwall_action::{Facts, Subject};
use agentwall_policy::{Layer, Source, Variables, load};
use agentwall_wall::plan::{PlanInput, REPLACED, host_mounts, plan};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("name a policy file")?;
    let workspace = args.next().ok_or("name a workspace")?;
    let variables = Variables {
        workspace: Some(workspace.into()),
        home: std::env::var_os("HOME").map(Into::into),
        tmp: Some("/tmp".into()),
        state: Some("/var/lib/agentwall-example".into()),
    };
    let source = Source::new(file.clone(), std::fs::read(&file)?, Layer::User);
    let policy = load(&[source], &variables)?.with_real_paths(&|p| p.canonicalize().ok());
    let view = plan(&PlanInput {
        policy: &policy,
        subject: &Subject::agent("agent"),
        facts: &Facts::default(),
        protected: &[],
        replaced: REPLACED,
        mounts: &host_mounts()?,
        learning: false,
    })?;
    println!(
        "reads trapped: {}, brokered writes: {}",
        view.trap_reads, view.brokered
    );
    for node in &view.nodes {
        println!(
            "{} {:?} {:?}",
            node.path.display(),
            node.placement,
            node.rule
        );
    }
    for note in &view.notes {
        println!("note: {note}");
    }
    Ok(())
}
