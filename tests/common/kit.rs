//! Compiles the attack programs, once per run of the suite.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Compiles every C file of `attacks` into `to`: dynamic under its own name, static with `-static`
/// appended; `evil.c` becomes the shared library `evil.so`.
pub fn compile(attacks: &Path, to: &Path) -> Result<(), String> {
    std::fs::create_dir_all(to).map_err(|e| format!("{}: {e}", to.display()))?;
    let mut sources: Vec<PathBuf> = std::fs::read_dir(attacks)
        .map_err(|e| format!("{}: {e}", attacks.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "c"))
        .collect();
    sources.sort();
    let mut running = Vec::new();
    for source in &sources {
        let stem = source
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default();
        let builds: &[(&str, &[&str])] = match stem.as_str() {
            "evil" => &[(".so", &["-shared", "-fPIC"])],
            _ => &[("", &[]), ("-static", &["-static"])],
        };
        for (suffix, flags) in builds {
            let mut gcc = Command::new("gcc");
            gcc.args(["-O1", "-w", "-pthread"])
                .args(*flags)
                .arg("-o")
                .arg(to.join(format!("{stem}{suffix}")));
            let child = gcc
                .arg(source)
                .arg("-ldl")
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|e| format!("gcc: {e}"))?;
            running.push((source, child));
        }
    }
    for (source, child) in running {
        let out = child.wait_with_output().map_err(|e| format!("gcc: {e}"))?;
        if !out.status.success() {
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            return Err(format!(
                "gcc could not compile {}: {text}",
                source.display()
            ));
        }
    }
    std::fs::write(to.join("magic"), "AWMAGIC\n").map_err(|e| e.to_string())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(to.join("magic"), mode).map_err(|e| e.to_string())
}
