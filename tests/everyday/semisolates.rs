//! The test list of `try` (binpash/try, `test/`), written anew: each of its cases has one of the same name
//! here. Most are plays like every other task: what they say and leave outside is what they say and leave
//! behind the wall, once committed. Those about commands of `try` itself use ours, and check the outcome
//! themselves. What has no counterpart is named in tests/README.md, with the reason.

use crate::tasks::{Task, task};

/// A play in the workspace.
const fn play(name: &'static str, script: &'static str) -> Task {
    task(name, &["bash"], script)
}

/// `commit`, `discard` and `diff` of the session before, in the workspace.
macro_rules! wall {
    ($body:literal) => {
        concat!(
            "set -e; keep() { '{wall}' run --policy '{policy}' --workspace '{work}' --keep -- /bin/bash -ec \"$1\"; }\n",
            "again() { '{wall}' run --policy '{policy}' --workspace '{work}' --keep \"$1\" \"$2\" -- /bin/bash -ec \"$3\"; }\n",
            "newest() { '{wall}' sessions --json --all | grep -o '\"id\": *\"[^\"]*\"' | head -1 | cut -d'\"' -f4; }\n",
            "aw() { '{wall}' \"$@\" 2>&1 </dev/null; }\n",
            $body,
            "\necho task-done"
        )
    };
}

/// All of them.
pub fn all() -> Vec<Task> {
    let mut all = commit_cases();
    all.extend(streams());
    all.extend(own_commands());
    all
}

/// `all-commit-cases.sh`: each kind of change over each kind of what was there.
fn commit_cases() -> Vec<Task> {
    vec![
        play("try/all-commit-cases/opaque-over-dir", "mkdir olddir; echo hi >olddir/oldfile
in_wall 'rm -r olddir; mkdir olddir; echo fresh >olddir/newfile'; ls olddir; cat olddir/newfile; test ! -e olddir/oldfile && echo task-done"),
        play("try/all-commit-cases/dir-over-nothing", "in_wall 'mkdir newdir'; test -d newdir && echo task-done"),
        play("try/all-commit-cases/dir-over-file", "echo hi >wasfile
in_wall 'mv wasfile stillfile; mkdir wasfile; mv stillfile wasfile'; test \"$(cat wasfile/stillfile)\" = hi && echo task-done"),
        play("try/all-commit-cases/dir-over-symlink", "ln -s /usr/bin/env waslink
in_wall 'rm waslink; mkdir waslink; ln -s /usr/bin/env waslink/newlink'; test -d waslink && readlink waslink/newlink && echo task-done"),
        play("try/all-commit-cases/whiteout-over-dir", "mkdir existdir; touch existdir/file
in_wall 'rm -r existdir'; test ! -e existdir && echo task-done"),
        play("try/all-commit-cases/whiteout-over-file", "echo alas >goner; in_wall 'rm goner'; test ! -e goner && echo task-done"),
        play("try/all-commit-cases/whiteout-over-symlink", "ln -s /usr/bin/env trylink; in_wall 'rm trylink'; test ! -L trylink && echo task-done"),
        play("try/all-commit-cases/whiteout-over-nothing", "in_wall 'touch absent; sync; rm absent'; test ! -e absent && echo task-done"),
        play("try/all-commit-cases/file-over-symlink", "echo target >t; ln -s t sneaky
in_wall 'rm sneaky; echo gotcha >sneaky'; test ! -L sneaky && cat sneaky t && echo task-done"),
        play("try/all-commit-cases/file-over-nothing", "in_wall 'echo arceus >missingno'; cat missingno && echo task-done"),
        play("try/all-commit-cases/file-over-dir", "mkdir -p wasdir/inner; touch wasdir/inner/goodbye
in_wall 'rm -r wasdir; echo a humble file >wasdir'; cat wasdir && echo task-done"),
        play("try/all-commit-cases/file-over-file", "echo sup >wasfile; in_wall 'echo what is up >wasfile'; cat wasfile && echo task-done"),
        play("try/all-commit-cases/symlink-over-nothing", "in_wall 'ln -s /usr/bin/env linktobe'; readlink linktobe && echo task-done"),
        play("try/all-commit-cases/symlink-over-file", "echo so long >gonnago; in_wall 'ln -sf /usr/bin/env gonnago'; readlink gonnago && echo task-done"),
        play("try/all-commit-cases/symlink-over-symlink", "ln -s /etc/passwd otherlink; in_wall 'ln -sf /usr/bin/env otherlink'; readlink otherlink && echo task-done"),
        play("try/all-commit-cases/symlink-over-dir", "mkdir -p formerdir/en formerdir/it; for i in 1 2; do echo $i >formerdir/en/file$i; echo $i >formerdir/it/file$i; done
in_wall 'rm -r formerdir; ln -s /this/is/a/broken/symlink formerdir'; readlink formerdir && echo task-done"),
        play("try/all-commit-cases/fifo-then-file", "in_wall 'mkfifo newpipe; rm newpipe; echo new >newfile'; test ! -e newpipe && cat newfile && echo task-done"),
        play("try/all-commit-cases/fifo-then-dir", "in_wall 'mkfifo newpipe; rm newpipe; mkdir newdir'; test -d newdir && echo task-done"),
        play("try/all-commit-cases/fifo-over-symlink", "ln -s /usr/bin/env newpipe; in_wall 'rm newpipe; mkfifo newpipe'; test -p newpipe && echo task-done"),
        play("try/all-commit-cases/fifo-over-nothing", "in_wall 'mkfifo newpipe'; test -p newpipe && echo task-done"),
        task("try/all-commit-cases/socket-then-file", &["python3"], "in_wall '/usr/bin/python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind(\\\"newsock\\\")\"; rm newsock; echo hello >newfile'; test ! -e newsock && cat newfile && echo task-done"),
        task("try/all-commit-cases/socket-then-dir", &["python3"], "in_wall '/usr/bin/python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind(\\\"newsock\\\")\"; rm newsock; mkdir newdir'; test ! -e newsock && test -d newdir && echo task-done"),
        task("try/all-commit-cases/socket-over-symlink", &["python3"], "ln -s /usr/bin/env newsock; in_wall 'rm newsock; /usr/bin/python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind(\\\"newsock\\\")\"'; test -S newsock && echo task-done"),
        task("try/all-commit-cases/socket-over-nothing", &["python3"], "in_wall '/usr/bin/python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind(\\\"newsock\\\")\"'; test -S newsock && echo task-done"),
        play("try/mkdir_on_file", "touch target; in_wall 'rm target; mkdir target'; test -d target && echo task-done"),
        play("try/symlinks", "run ln -s foo bar; readlink bar && echo task-done"),
        play("try/newline-filename", "touch $'this\\nsucks'; in_wall $'rm \"$(printf \\'this\\\\nsucks\\')\"'; test ! -e $'this\\nsucks' && echo task-done"),
        play("try/misc/touch_echo_and_rm", "echo old >file.txt; in_wall 'touch file_1.txt; echo test >file_2.txt; rm file.txt'; cat file_2.txt; ls && echo task-done"),
        play("try/misc/word_count_and_write", "seq 50 >file.txt; in_wall 'wc -w <file.txt >count; sort -r file.txt >sorted'; cat count && echo task-done"),
        task("try/unzip_no_flag", &["gzip"], "seq 200 >file.txt; cp file.txt expected; gzip -n file.txt; in_wall 'gunzip file.txt.gz'; diff file.txt expected && test ! -e file.txt.gz && echo task-done"),
        play("try/touch_and_rm_no_flag", "touch file.txt.gz; in_wall 'touch file_1.txt; echo test >file_2.txt; rm file.txt.gz'; test ! -e file.txt.gz && cat file_2.txt && echo task-done"),
    ]
}

/// What a command says, is told and ends with.
fn streams() -> Vec<Task> {
    vec![
        play(
            "try/exit_status",
            "for s in 0 1 2 7 113 255; do run /bin/sh -c \"exit $s\"; echo $?; done; echo task-done",
        ),
        play(
            "try/exit_code",
            "run /bin/sh -c 'touch made; exit 9'; echo $?; test -e made && echo task-done",
        ),
        play(
            "try/command_substitution",
            "in_wall 'echo $(echo a; echo b) >out'; cat out && echo task-done",
        ),
        play(
            "try/process_substitution",
            "in_wall 'cat <(echo one) <(echo two) >out'; cat out && echo task-done",
        ),
        play(
            "try/process_substitution_N_flag",
            "in_wall 'diff <(seq 3) <(seq 4) >out || :'; cat out && echo task-done",
        ),
        play(
            "try/process_substitution_D_flag",
            "in_wall 'seq 5 | tee >(tail -1 >last) >all; for i in $(seq 50); do test -s last && break; sleep 0.1; done'; cat last all && echo task-done",
        ),
        play(
            "try/pipeline",
            "in_wall 'grep -v b f <<<ignored | sort -r >out'; printf 'a\\nb\\nc\\n' >f; in_wall 'grep -v b f | sort -r >out'; cat out && echo task-done",
        ),
        play(
            "try/quoted_arguments",
            "run /bin/sh -c 'printf \"[%s]\" \"$@\"' zero 'a b' '' \"it's\" '$HOME' '*' '\"q\"'; echo; echo task-done",
        ),
        play(
            "try/stdstream",
            "echo in | run /bin/sh -c 'test -p /dev/stdin && echo pipe; readlink /dev/stdin >/dev/null && cat /dev/stdin; echo err >/dev/stderr' 2>/dev/null; echo task-done",
        ),
        play(
            "try/dev_urandom",
            "in_wall 'head -c 100 /dev/urandom | wc -c; head -c 100 /dev/zero | wc -c; echo gone >/dev/null'; echo task-done",
        ),
        play(
            "try/hidden_variables",
            "in_wall 'echo ${SANDBOX_DIR-none}; env | grep -ci agentwall_ || :' | head -1; echo task-done",
        ),
        play(
            "try/check_env",
            "export AW_TEST_VARIABLE='a value'; in_wall 'echo $AW_TEST_VARIABLE; pwd | grep -c work; echo $USER'; echo task-done",
        ),
        play(
            "try/check_shell",
            "in_wall 'echo $0 | grep -c bash'; run /bin/sh -c 'echo sh'; echo task-done",
        ),
        play(
            "try/print-shell",
            "in_wall 'echo ${BASH_VERSION:+bash}'; echo task-done",
        ),
        play("try/uidmapping", "in_wall 'id -u; id -un'; echo task-done"),
        play("try/gidmapping", "in_wall 'id -g; id -gn'; echo task-done"),
        play(
            "try/fileowner",
            "touch test; in_wall 'stat -c %u:%g test; touch made; stat -c %u:%g made'; stat -c %u:%g made; echo task-done",
        ),
        play(
            "try/toplevel-perms",
            "in_wall 'for d in / /usr /etc /bin /lib /var /tmp; do test -d $d && echo $d; done'; echo task-done",
        ),
        play(
            "try/network",
            "in_wall 'test -n \"$(ls /sys/class/net 2>/dev/null)\" || test -e /proc/net/dev; test -r /etc/resolv.conf && echo named'; echo task-done",
        ),
    ]
}

/// What `try` does with options and commands of its own.
fn own_commands() -> Vec<Task> {
    vec![
        play("try/summary", wall!("echo fail >file_2.txt; touch target file.txt.gz
keep 'touch file_1.txt; echo test >file_2.txt; rm file.txt.gz; rm target; mkdir target; mkdir -p new_dir/nested'
aw diff >shown; for n in file_1.txt file_2.txt file.txt.gz target new_dir; do grep -q \"$n\" shown; done
test -e file.txt.gz; test ! -e file_1.txt; aw discard >/dev/null; rm shown")),
        play("try/empty_summary", wall!("keep 'echo hi' >/dev/null; ! aw diff | grep -q '^[AMD] '")),
        play("try/touch_and_rm_N_flag_commit", wall!("touch file.txt.gz; keep 'touch file_1.txt; echo test >file_2.txt; rm file.txt.gz'
test -e file.txt.gz; test ! -e file_1.txt; aw commit >/dev/null; test ! -e file.txt.gz; test -e file_1.txt; cat file_2.txt")),
        play("try/touch_and_rm_D_flag_commit", wall!("touch file.txt.gz; keep 'touch file_1.txt; rm file.txt.gz' 2>said
id=$(newest); aw commit $id >/dev/null; test -e file_1.txt; test ! -e file.txt.gz; rm said")),
        play("try/unzip_N_flag_commit", wall!("seq 200 >file.txt; cp file.txt expected; gzip -n file.txt; keep 'gunzip file.txt.gz'; test -e file.txt.gz
aw commit >/dev/null; cmp file.txt expected; test ! -e file.txt.gz")),
        play("try/unzip_D_flag_commit_without_cleanup", wall!("seq 200 >file.txt; gzip -n file.txt; keep 'gunzip file.txt.gz'; aw commit >/dev/null
keep 'gzip -n file.txt'; test -e file.txt; aw commit >/dev/null; test -e file.txt.gz; test ! -e file.txt")),
        play("try/ignore_flag", wall!("keep 'touch foo1.txt foo2.txt bar.txt'; aw discard -- foo1.txt foo2.txt >/dev/null; aw commit >/dev/null
test -e bar.txt; test ! -e foo1.txt; test ! -e foo2.txt")),
        play("try/include_flag", wall!("keep 'touch foo1.txt foo2.txt; mkdir d; touch d/in'; aw commit -- foo1.txt d >/dev/null
test -e foo1.txt; test -e d/in; test ! -e foo2.txt; aw discard >/dev/null; test ! -e foo2.txt")),
        play("try/reuse_sandbox", wall!("echo test >file_2.txt; keep 'rm file_2.txt; echo one >file_1.txt'; id=$(newest)
again --on $id 'test ! -e file_2.txt; cat file_1.txt; echo two >>file_1.txt' | grep -qx one
test -e file_2.txt; test ! -e file_1.txt; aw commit $id >/dev/null; test ! -e file_2.txt; cat file_1.txt")),
        play("try/reentry_empty", wall!("keep ':'; id=$(newest); again --on $id 'echo made >f'; aw commit $id >/dev/null; cat f")),
        play("try/reentry_dir_tests", wall!("mkdir -p d/e; echo old >d/e/f; keep 'rm -r d; mkdir d; echo new >d/g'; id=$(newest)
again --on $id 'test ! -e d/e; rm -r d'; again --on $id 'test ! -e d; mkdir -p d/e; echo newest >d/e/f'
aw commit $id >/dev/null; cat d/e/f; test ! -e d/g")),
        play("try/reentry_copy", wall!("keep 'echo one >f'; first=$(newest); again --from $first 'echo two >g; test \"$(cat f)\" = one'; second=$(newest)
test $first != $second; aw discard $first >/dev/null; aw commit $second >/dev/null; cat f g")),
        play("try/nonexistent_sandbox", wall!("! aw commit no-such-session >said; grep -q 'no-such-session' said; rm said")),
        play("try/help_flag", wall!("aw --help | grep -q Usage; aw commit --help | grep -q Usage; aw diff --help | grep -q Usage")),
        play("try/tempfiles", wall!("before=$(ls -A /tmp /var/tmp | grep -c agentwall || :); keep 'touch foo; touch /tmp/bar'
test ! -e foo; test ! -e /tmp/bar; aw commit -- foo >/dev/null; test -e foo; aw discard >/dev/null; test ! -e /tmp/bar")),
    ]
}
