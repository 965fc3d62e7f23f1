//! Servers that a test talks to: `ledger serve`, `witness serve`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use super::Host;

/// A server of the binary; killed when dropped.
pub struct Served {
    child: Child,
    pub url: String,
}

impl Served {
    /// Starts it on a free port.
    pub fn new(host: &Host, args: &[&str]) -> Served {
        let mut all = args.to_vec();
        all.extend(["--listen", "127.0.0.1:0"]);
        let mut command = host.command(&all);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let at = line.find("http://").unwrap_or_else(|| panic!("{line}"));
        let url = line[at..].split(';').next().unwrap().to_owned();
        Served { child, url }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
