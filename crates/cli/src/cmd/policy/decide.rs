//! `agentwall policy decide`: one action a line in, one decision a line out.
//!
//! The face for another program: it keeps the command running, writes a JSON object per line and
//! reads one back before it writes the next; each answer is flushed. The policy is loaded once.
//! Every line gets exactly one answer that names its number. A line that cannot be read gets an error
//! and no decision, which a caller must take for a refusal; the exit status is then 1.
//!
//! Invariants: it decides as `policy explain` does, on the same action; a line takes bounded memory.

use std::{
    io::{self, BufRead, Read as _},
    path::Path,
    process::ExitCode,
};

use agentwall_action::escape_text;
use agentwall_policy::Policy;
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::{
    args::policy::DecideArgs,
    cmd::policy::{asked::Asked, variables},
    output, policies,
};

/// Longest line, in bytes: an action with its arguments.
const MAX_LINE: usize = 4 << 20;

/// Runs the command.
pub fn main(args: &DecideArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let variables = variables(Some(&workspace))?;
    let sources = policies::policy_sources(args.policy.as_deref(), &workspace)?;
    let policy = policies::load(&sources, &variables)?
        .with_commit_rule()
        .with_real_paths(&|path: &Path| path.canonicalize().ok());
    let mut input = io::stdin().lock();
    let mut all_good = true;
    for number in 1u64.. {
        let Some(line) = next_line(&mut input).context("cannot read the actions")? else {
            break;
        };
        let mut answer = match line.and_then(|line| decide(&policy, &line, &workspace)) {
            Ok(decision) => decision,
            Err(error) => {
                all_good = false;
                json!({ "error": output::explain(&error) })
            }
        };
        answer["line"] = number.into();
        output::print_json_line(&answer)?;
    }
    Ok(ExitCode::from(if all_good {
        output::OK
    } else {
        output::FAILED
    }))
}

/// The decision on one line, as JSON.
fn decide(policy: &Policy, line: &[u8], workspace: &Path) -> Result<Value> {
    let wrong = |what: &str| {
        anyhow!(
            "not an action: {}; write one JSON object a line, such as \
             {{\"action\":\"tool.call\",\"resource\":\"send_email\",\"args\":{{}}}}",
            escape_text(what)
        )
    };
    // A list of the fields in their order would be read, too; nobody means that.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err(wrong("no JSON object"));
    }
    let asked: Asked = serde_json::from_slice(line).map_err(|e| wrong(&e.to_string()))?;
    let action = asked.action(workspace)?;
    Ok(serde_json::to_value(policy.answer(&action))?)
}

/// The next line without its end; `None` after the last. A line that is too long is read to its end
/// and refused, so that the one after it is still understood.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>>>> {
    let mut line = Vec::new();
    let mut limited = input.by_ref().take(MAX_LINE as u64 + 1);
    if limited.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
    } else if line.len() > MAX_LINE {
        input.skip_until(b'\n')?;
        let error = anyhow!("the line has more than {MAX_LINE} bytes");
        return Ok(Some(Err(error)));
    }
    Ok(Some(Ok(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_refused_and_the_next_one_is_read() {
        let mut text = vec![b'x'; MAX_LINE + 10];
        text.extend(b"\nnext\nlast");
        let mut input = io::Cursor::new(text);
        let mut lines = || next_line(&mut input).unwrap();
        assert!(lines().unwrap().is_err());
        assert_eq!(lines().unwrap().unwrap(), b"next");
        assert_eq!(lines().unwrap().unwrap(), b"last");
        assert!(lines().is_none());
        let mut whole = vec![b'x'; MAX_LINE];
        whole.push(b'\n');
        assert!(next_line(&mut &whole[..]).unwrap().unwrap().is_ok());
    }
}
