//! The attack programs: compiled once per run of the suite, or before it (the compiler is slow in the virtual machine).

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Compiles every C file of `attacks` into `to`: dynamic under its own name, static with `-static`
/// appended; `evil.c` becomes the shared library `evil.so`. What is there and newer than its source stays.
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
            let made = to.join(format!("{stem}{suffix}"));
            if is_newer(&made, source) {
                continue;
            }
            let mut gcc = Command::new("gcc");
            gcc.args(["-O1", "-w", "-pthread"])
                .args(*flags)
                .arg("-o")
                .arg(made);
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

/// Compiles and does nothing else; the exit code.
pub fn compile_only(attacks: &Path, to: &Path) -> i32 {
    match compile(attacks, to) {
        Ok(()) => 0,
        Err(why) => {
            println!("{why}");
            2
        }
    }
}

fn is_newer(made: &Path, source: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    matches!((changed(made), changed(source)), (Some(made), Some(source)) if made > source)
}

/// Takes over what was compiled elsewhere.
pub fn copy(made: &Path, to: &Path) -> Result<(), String> {
    let say = |e: std::io::Error| format!("{}: {e}", made.display());
    std::fs::create_dir_all(to).map_err(say)?;
    for entry in made.read_dir().map_err(say)? {
        let entry = entry.map_err(say)?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(say)?;
    }
    Ok(())
}
