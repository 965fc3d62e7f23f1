//! Patches: real `git apply` takes them and arrives at the committed tree.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, sh};

use agentwall_cow::{DiffOptions, stat, write_patch};

fn patch(s: &Session, options: &DiffOptions) -> Vec<u8> {
    let mut out = Vec::new();
    write_patch(&mut out, std::slice::from_ref(&s.layer), &s.scan(), options).unwrap();
    out
}

#[test]
fn git_apply_takes_the_patch() {
    let s = Session::new(
        "seq 1 40 >text; printf 'no newline' >nn; printf 'x\\r\\ny\\n' >crlf; ln -s a l; ln -s t totype
         mkdir -p gone/sub; echo 1 >gone/1; echo 2 >gone/sub/2; echo e >exec; : >empty-goes
         echo s >'sp ace'; echo s >'sp2 ace'; echo q >'qu\"ote\\x'; echo t >\"$(printf 'ta\\tb\\nnl')\"
         printf 'latin \\351\\n' >latin; echo one >one; : >fill; echo drain >drain",
    );
    sh(s.tmp.path(), "cp -a root work-tree");
    s.agent(
        "sed -i '5d;20s/.*/twenty/;39a new' text; printf more >>nn; printf 'x\\r\\nz\\n' >crlf
         ln -sfn b l; rm totype; echo file >totype; rm -r gone; chmod 755 exec; rm empty-goes; : >empty
         echo S >'sp ace'; rm 'sp2 ace'; echo Q >'qu\"ote\\x'; echo T >\"$(printf 'ta\\tb\\nnl')\"
         printf 'latin \\352\\n' >latin; mkdir -p n/m; echo n >n/m/f; echo '#!/bin/sh' >n/run
         chmod 755 n/run; printf '\\303\\244' >\"$(printf 'uml\\303\\244')\"; echo two >>one; echo x >fill; : >drain",
    );
    let options = DiffOptions::default();
    let text = patch(&s, &options);
    std::fs::write(s.tmp.path().join("p"), &text).unwrap();
    sh(
        &s.tmp.path().join("work-tree"),
        "git init -q . && git apply --check ../p && git apply ../p && rm -rf .git",
    );
    s.commit_all();
    let mut applied = common::tree(&s.tmp.path().join("work-tree"));
    let mut committed = common::tree(s.root());
    // git leaves emptied directories away and knows no other modes.
    for t in [&mut applied, &mut committed] {
        t.retain(|_, v| !v.starts_with("dir"));
    }
    assert_eq!(applied, committed);
}

#[test]
fn what_a_patch_cannot_carry_is_said_and_skipped() {
    let s = Session::new("printf 'a\\0b' >bin; echo t >t");
    sh(s.tmp.path(), "cp -a root work-tree");
    s.agent("printf 'a\\0c' >bin; echo u >>t; seq 1 5000 >big; mkfifo p; chmod 600 t; mkdir d");
    let options = DiffOptions {
        max_file: 1000,
        ..DiffOptions::default()
    };
    let text = patch(&s, &options);
    let shown = String::from_utf8_lossy(&text).into_owned();
    for line in [
        "# bin: binary, 3 -> 3 bytes",
        "# big: cut: ",
        "# p: nothing -> Fifo",
        "# d: nothing -> Directory",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    std::fs::write(s.tmp.path().join("p"), &text).unwrap();
    sh(
        &s.tmp.path().join("work-tree"),
        "git init -q . && git apply ../p && grep -q u t",
    );
    let lines = stat(std::slice::from_ref(&s.layer), &s.scan(), &options).unwrap();
    let line = |n: &str| lines.iter().find(|l| l.path.ends_with(n)).unwrap();
    assert_eq!(
        (line("t").insertions, line("t").deletions),
        (Some(1), Some(0))
    );
    assert!(line("bin").binary && line("bin").insertions.is_none());
    assert_eq!(line("big").insertions, None);
}

#[test]
fn a_conflict_is_said_in_the_patch() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a");
    s.user("echo c >a");
    let text = patch(&s, &DiffOptions::default());
    assert!(String::from_utf8_lossy(&text).contains("# a: conflict: the original changed"));
}
