//! The inside half alone, to look at: `unshare -Urn inside COMMAND…` sets the namespace up with
//! nobody behind the listeners and runs the command, for example `nft list ruleset`.

use std::{os::unix::process::CommandExt, process::Command, time::Instant};

use agentwall_egress::{HostLoopback, Listeners, netns};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = HostLoopback::ports([8080..=8080, 9000..=9010]);
    let start = Instant::now();
    let listeners = Listeners::bind(&host)?;
    let bound = start.elapsed();
    netns::configure(&listeners.plan(host))?;
    eprintln!(
        "bound in {bound:?}, configured in {:?}",
        start.elapsed() - bound
    );
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        return Ok(());
    };
    Err(Command::new(program).args(args).exec().into())
}
