//! Compiles the BPF programs in `bpf/` with clang, one object for each `NAME.bpf.c`.
//!
//! The objects are CO-RE (compile once, run everywhere): the few kernel structures they read are declared
//! in `bpf/types.h` and relocated against the running kernel's BTF when they are loaded. So a build needs
//! no kernel headers and does not depend on the kernel it is made on. `$CLANG` names another clang.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest instruction set that the oldest supported kernel (6.1) knows in full.
const CPU: &str = "-mcpu=v3";

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let include = env::var_os("DEP_BPF_INCLUDE").expect("libbpf-sys names its headers");
    let mut sources: Vec<PathBuf> = fs::read_dir("bpf")
        .expect("the folder bpf lies beside this file")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    for source in &sources {
        let name = source.file_stem().expect("it ends with .bpf.c");
        compile(
            source,
            &out.join(name).with_extension("bpf.o"),
            Path::new(&include),
        );
    }
}

/// Compiles one source; debug information is reduced to BTF.
fn compile(source: &Path, object: &Path, include: &Path) {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "-D__TARGET_ARCH_x86",
        Ok("aarch64") => "-D__TARGET_ARCH_arm64",
        other => panic!("the BPF programs are not ported to {other:?}: x86_64 and aarch64"),
    };
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-std=gnu11", CPU, arch])
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-function",
            "-Wno-unused-parameter",
            "-fno-stack-protector",
        ])
        .arg("-I")
        .arg(include)
        .args(["-I", "bpf", "-c"])
        .arg(source)
        .arg("-o")
        .arg(object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang failed on {}: {status}", source.display()),
        Err(error) => panic!(
            "cannot run {}: {error}. Install clang (Debian: clang), or name it in $CLANG",
            Path::new(&clang).display()
        ),
    }
}
