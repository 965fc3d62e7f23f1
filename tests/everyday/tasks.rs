//! The tasks. Each ends by printing `task-done`.

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub name: &'static str,
    /// Programs it needs.
    pub needs: &'static [&'static str],
    /// Runs in the workspace; `run CMD …` and `in_wall 'SCRIPT'` go through the wall the second time.
    pub script: &'static str,
    /// Parts of paths that differ between any two runs.
    pub ignore: &'static [&'static str],
    /// Seconds.
    pub limit: u64,
    /// Known to differ inside: why.
    pub open: Option<&'static str>,
    /// Skipped when it does not work outside.
    pub network: bool,
}

pub(crate) const fn task(
    name: &'static str,
    needs: &'static [&'static str],
    script: &'static str,
) -> Task {
    Task {
        name,
        needs,
        script,
        ignore: &[],
        limit: 60,
        network: false,
        open: None,
    }
}

/// All of them.
pub fn all() -> Vec<Task> {
    let git_ignore: &[&str] = &[".git/index", "/index", ".git/logs", ".mtimes"];
    vec![
        Task {
            ignore: git_ignore,
            ..task(
                "git",
                &["git"],
                r#"in_wall '
git init -q -b main repo && cd repo
echo one > a.txt; git add .; git commit -qm first
git checkout -qb topic; echo two > b.txt; git add .; git commit -qm second
git checkout -q main; echo three > c.txt; git add .; git commit -qm third
git checkout -q topic; git rebase -q main; git log --oneline --all --graph
git worktree add -q ../tree main; ls ../tree; git worktree list | sed "s/ .*//" | wc -l
git stash list; echo x >> a.txt; git stash -q; git stash pop -q; git diff --stat; git checkout -q a.txt
git tag v1; git gc -q; git fsck --full; git status --short; git mv a.txt d.txt; git commit -qm moved; git log --stat -1 | tail -3
'; echo task-done"#,
            )
        },
        Task {
            ignore: git_ignore,
            ..task(
                "git-in-existing-repository",
                &["git"],
                r#"
git init -q -b main .; for i in $(seq 30); do mkdir -p d$i; echo $i > d$i/f; done; git add .; git commit -qm base
in_wall 'git status --short; git rm -q -r d1 d2; git mv d3/f d3/g; echo new > d4/f; git commit -qam change; git log --stat --oneline; git clean -fdx; git reset -q --hard HEAD~1; git status --short; git reset -q --hard HEAD@{1}'
git status --short; git log --oneline; git fsck; echo task-done"#,
            )
        },
        Task {
            ignore: &["target/", "target"],
            limit: 240,
            ..task(
                "cargo",
                &["cargo", "gcc"],
                r#"in_wall '
cargo new --quiet --vcs none --name sample pkg && cd pkg
printf "pub fn twice(x: u32) -> u32 { x * 2 }\n#[cfg(test)] mod tests { #[test] fn works() { assert_eq!(super::twice(2), 4); } }\n" > src/lib.rs
printf "fn main() { println!(\"{}\", sample::twice(21)); }\n" > src/main.rs
cargo build --offline 2>&1 | grep -v Finished; cargo test --offline 2>/dev/null | grep "test result" | sed "s/;.*//"; cargo run -q --offline; touch src/lib.rs; cargo build --offline 2>&1 | grep -c Compiling
'; ls pkg; pkg/target/debug/sample; echo task-done"#,
            )
        },
        Task {
            ignore: &["target/", "target"],
            limit: 240,
            network: true,
            ..task(
                "cargo-registry",
                &["cargo", "gcc"],
                r#"in_wall '
cargo new --quiet --vcs none --name sample pkg && cd pkg && cargo add -q itoa@1 2>&1
printf "fn main() { println!(\"{}\", itoa::Buffer::new().format(42)); }\n" > src/main.rs
cargo run -q'; pkg/target/debug/sample && echo task-done"#,
            )
        },
        Task {
            limit: 120,
            network: true,
            ..task(
                "npm",
                &["npm", "node"],
                r#"in_wall '
npm init -y >/dev/null && npm install --no-progress is-number@7.0.0 2>&1 | tail -1; node -e "console.log(require(\"is-number\")(5))"; npm ls --depth=0 | tail -2 | sed "s/@.*//"; ls node_modules'
test -d node_modules/is-number && echo task-done"#,
            )
        },
        Task {
            limit: 180,
            network: true,
            ignore: &["__pycache__", "/bin/python"],
            ..task(
                "pip",
                &["python3"],
                r#"in_wall '
/usr/bin/python3 -m venv v && v/bin/pip install -q --no-compile --no-deps iniconfig==2.0.0 && v/bin/python -c "import iniconfig; print(iniconfig.__name__)"; v/bin/pip list 2>/dev/null | grep -i iniconfig'
test -d v/lib/python3*/site-packages/iniconfig && echo task-done"#,
            )
        },
        Task {
            limit: 120,
            ..task(
                "make-gcc",
                &["make", "gcc"],
                r#"
mkdir src; printf 'int add(int a,int b){return a+b;}\n' > src/add.c; printf '#include <stdio.h>\nint add(int,int);int main(void){printf("%%d\\n",add(2,3));return 0;}\n' > src/main.c
printf 'prog: add.o main.o\n\tgcc -o $@ $^\n%%.o: src/%%.c\n\tgcc -O2 -c -o $@ $<\nclean:\n\trm -f *.o prog\n' > Makefile
in_wall 'make -j4 prog | sort; ./prog; make prog; make -s clean; ls; make -s prog; gcc -shared -fPIC -o libadd.so src/add.c; ar rcs libadd.a add.o; nm -D libadd.so | grep add'
./prog && echo task-done"#,
            )
        },
        task(
            "python",
            &["python3"],
            r#"in_wall '/usr/bin/python3 - <<EOF
import asyncio, multiprocessing, os, socket, sqlite3, subprocess, tempfile, threading, mmap
def f(x): return x * x
if __name__ == "__main__":
    with multiprocessing.Pool(3) as p: print(p.map(f, range(5)))
    q = multiprocessing.Queue(); pr = multiprocessing.Process(target=q.put, args=(7,)); pr.start(); print(q.get()); pr.join()
    db = sqlite3.connect("t.db"); db.execute("pragma journal_mode=wal"); db.execute("create table t(a)"); db.executemany("insert into t values(?)", [(i,) for i in range(10)]); db.commit(); print(db.execute("select sum(a) from t").fetchone()); db.close()
    async def serve():
        async def handle(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
        s = await asyncio.start_server(handle, "127.0.0.1", 0)
        r, w = await asyncio.open_connection(*s.sockets[0].getsockname()); w.write(b"hello\n"); print(await r.readline()); s.close()
        s = await asyncio.start_server(handle, "::1", 0)
        r, w = await asyncio.open_connection(*s.sockets[0].getsockname()[:2]); w.write(b"six\n"); print(await r.readline()); s.close()
        s = await asyncio.start_unix_server(handle, "u.sock")
        r, w = await asyncio.open_unix_connection("u.sock"); w.write(b"unix\n"); print(await r.readline()); s.close()
    asyncio.run(serve())
    os.path.exists("u.sock") and os.unlink("u.sock")
    a, b = socket.socketpair(); a.send(b"pair"); print(b.recv(10))
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.sendto(b"dgram", u.getsockname()); print(u.recv(10))
    print(subprocess.run(["cat"], input=b"piped", capture_output=True).stdout)
    with tempfile.NamedTemporaryFile() as t: t.write(b"x" * 100); t.flush(); print(os.path.getsize(t.name))
    with open("m", "w+b") as m: m.truncate(4096); mm = mmap.mmap(m.fileno(), 4096); mm[:3] = b"map"; mm.close()
    print(open("m", "rb").read(3)); print(os.getuid() >= 0, os.cpu_count() > 0)
EOF'; echo task-done"#,
        ),
        task(
            "text-tools",
            &["tar", "sed", "awk"],
            r#"
mkdir -p a/b/c; for i in 1 2 3; do echo line $i > a/f$i; done; ln -s f1 a/link; cp a/f2 a/b/hard; chmod 751 a/b; touch -d '2020-01-02 03:04:05' a/f3 a/b
in_wall 'tar czf t.tgz --sort=name --mtime=@0 --owner=0 --group=0 a; mkdir x; tar xzf t.tgz -C x; ls -R x; sed -i s/line/LINE/ a/f1; cat a/f1; mv a/f2 a/g2; cp -a a copy; stat -c "%a %Y %n" copy/f3 copy/b; readlink copy/link; cp --reflink=auto a/f3 r; mv a moved; find . -type f | sort | xargs wc -c; rm -r x; ln moved/g2 h; stat -c %h h; truncate -s 10 r; chmod 600 r; dd if=/dev/zero of=z bs=1k count=3 2>/dev/null; awk "{print \$2}" moved/f1; sort -r moved/f1 moved/f3; diff -r moved copy; echo diff $?; rm t.tgz'
echo task-done"#,
        ),
        task(
            "rsync",
            &["rsync"],
            r#"mkdir -p a/b; echo x > a/b/f; in_wall 'rsync -a a/ c/; rsync -a --delete a/ c/; ls -R c'; echo task-done"#,
        ),
        Task {
            ignore: &[".viminfo"],
            ..task(
                "vim-batch",
                &["vim"],
                r#"printf 'one\ntwo\n' > f; in_wall 'vim -es -u NONE -i NONE -c "%s/two/TWO/" -c wq f; cat f; printf "ggdd:wq\n" > keys; vim -u NONE -i NONE -es f -c "normal dd" -c x; cat f'; echo task-done"#,
            )
        },
        task(
            "shell",
            &["bash"],
            r#"in_wall '
sleep 0.1 & a=$!; sleep 0.2 & jobs | wc -l; wait $a; echo waited $?; wait
(exit 7) || echo sub $?; echo a b c | tr " " "\n" | sort -r | head -2; yes | head -100000 | wc -l
mkfifo p; (echo fifo > p &); cat p; rm p; cat <(echo process) <(echo substitution); trap "echo trapped" USR1; kill -USR1 $$; set -m; sleep 5 & kill %1; wait %1 || echo killed $?
timeout 0.2 sleep 5 || echo timeout $?; exec 3> fd; echo three >&3; exec 3>&-; cat fd; cd /; pwd; cd "$OLDPWD"; ulimit -n >/dev/null && echo limits; printf "%s\n" {1..3} > seq; coproc cat; echo co >&${COPROC[1]}; read -u ${COPROC[0]} l; echo $l; : > /dev/null; echo err >&2' 2>/dev/null; echo task-done"#,
        ),
        Task {
            ..task(
                "node-server",
                &["node"],
                r#"in_wall 'node -e "
const http = require(\"http\"), fs = require(\"fs\"), cp = require(\"child_process\"), wt = require(\"worker_threads\");
const s = http.createServer((q, r) => r.end(\"hello \" + q.url)).listen(0, \"127.0.0.1\", async () => {
  const r = await fetch(\"http://127.0.0.1:\" + s.address().port + \"/x\"); console.log(r.status, await r.text());
  const l = await fetch(\"http://localhost:\" + s.address().port + \"/y\"); console.log(l.status, await l.text());
  fs.mkdirSync(\"d/e\", {recursive: true}); fs.writeFileSync(\"d/e/f\", \"x\"); fs.renameSync(\"d/e/f\", \"d/g\"); fs.rmSync(\"d/e\", {recursive: true}); console.log(fs.readdirSync(\"d\"));
  console.log(cp.execSync(\"echo child\").toString().trim()); fs.watch(\"d\").close(); s.close(); });
"'; echo task-done"#,
            )
        },
        task(
            "curl-server",
            &["curl", "python3"],
            r#"in_wall '
port=$((20000 + $$ % 20000)); echo page > index.html; /usr/bin/python3 -m http.server $port --bind 127.0.0.1 >/dev/null 2>&1 & p=$!
for i in $(seq 50); do curl -s http://127.0.0.1:$port/ && break; sleep 0.1; done; curl -s http://localhost:$port/index.html; kill $p; wait $p 2>/dev/null || true; echo served'; echo task-done"#,
        ),
        task(
            "exit-status",
            &["bash"],
            r#"
for s in 0 1 3 42 124 125 126 127 128 255; do run /bin/sh -c "exit $s" 2>/dev/null; echo "$s -> $?"; done
for s in TERM KILL INT HUP SEGV; do run /bin/sh -c "kill -$s \$\$" 2>/dev/null; echo "$s -> $?"; done 2>/dev/null
(trap '' HUP USR1; run /bin/sh -c 'kill -HUP $$; kill -USR1 $$; echo ignored signals stay ignored')
run /bin/sh -c 'no-such-command' 2>/dev/null; echo "missing -> $?"; run /bin/true; echo "true -> $?"; run /bin/false; echo "false -> $?"; echo task-done"#,
        ),
        task(
            "pipes",
            &["bash"],
            r#"
echo from-outside | run cat; printf 'a\0b\377c' | run cat | od -c | head -2; run /bin/sh -c 'echo out; echo err >&2' 2>/dev/null
run head -c 3000000 /dev/zero | wc -c; head -c 5000000 /dev/zero | run wc -c; run seq 1 200000 | tail -1; run yes 2>/dev/null | head -2; run /bin/sh -c 'cat; echo eof' < /dev/null; run /bin/sh -c 'test -t 0 || echo no-terminal'; echo task-done"#,
        ),
        task(
            "arguments",
            &["bash"],
            r#"
run printf '%s|' 'a b' '' '*' "q'q" $'new\nline' $'\xff\xfe' -- --flag; echo; run /bin/sh -c 'echo "$#:$1:$2"' zero 'one 1' ''; FOO='b a r' run /bin/sh -c 'echo $FOO'; run env | grep -c ^HOME=; run pwd; run /bin/sh -c 'umask'; run id -u; run id -un; run /bin/sh -c 'echo $HOME' | wc -c; echo task-done"#,
        ),
        task(
            "odd-names",
            &["bash", "python3"],
            r#"
in_wall $'/usr/bin/python3 -c "
import os
for n in (b\'sp ace\', b\'new\\\\nline\', b\'\\\\xff\\\\xfe\', b\'-dash\', b\'x\' * 255, \'\\u00fcn\\u00efcode\'.encode()): open(n, \'wb\').write(n)
print(len(os.listdir(b\'.\')))"'; echo task-done"#,
        ),
        task(
            "commit-at-once",
            &["bash"],
            r#"run_and_commit /bin/sh -c 'echo x > made; echo said' | tr a-z A-Z; cat made; echo task-done"#,
        ),
        Task {
            open: Some(
                "rename(2) of a folder that is in the original answers EXDEV (overlayfs without redirect_dir): mv copies, git mv of a folder fails",
            ),
            ignore: git_ignore,
            ..task(
                "folder-renamed",
                &["git"],
                r#"git init -q -b main .; mkdir d3; echo 3 > d3/f; git add .; git commit -qm base; in_wall 'git mv d3 e3; git commit -qm moved; git log --oneline'; ls; echo task-done"#,
            )
        },
        Task {
            open: Some(
                "the first write to one of several hard links in the original separates it from the others (overlayfs copy-up)",
            ),
            ..task(
                "hard-links-written",
                &["bash"],
                r#"echo a > one; ln one two; in_wall 'echo b >> one; cat two; stat -c %h one'; cat two; echo task-done"#,
            )
        },
        task(
            "many-files",
            &["bash"],
            r#"
in_wall 'mkdir m; cd m; for i in $(seq 400); do echo $i > f$i; done; for i in $(seq 1 2 400); do rm f$i; done; ls | wc -l; cd ..; cp -r m n; rm -r m; find n -type f | wc -l; mkdir -p deep/$(seq -s/ 1 60); touch deep/$(seq -s/ 1 60)/end'; find deep -name end | wc -l; echo task-done"#,
        ),
        task(
            "delete-and-replace",
            &["bash"],
            r#"
mkdir -p d/e; echo x > d/e/f; echo y > g; mkdir h; echo z > h/i; ln -s g l; mkdir emptied; touch emptied/a; echo old > modes; chmod 600 modes; touch -d '2002-03-04 05:06:07' modes
in_wall 'rm -r d; echo now-a-file > d; rm g; mkdir g; echo in > g/in; rm -r h; mkdir h; echo other > h/j; rm l; echo plain > l; rm emptied/a; mv modes m2; chmod 755 m2; ln -s nowhere dangling; touch -d "2001-02-03 04:05:06" d; stat -c "%Y %a" d m2'
stat -c '%Y %a' d m2; ls -R; echo task-done"#,
        ),
        task(
            "locks-and-watches",
            &["python3", "flock"],
            r#"in_wall '
flock f -c "echo locked"; flock -n f true && echo again; /usr/bin/python3 -c "
import fcntl, os, select, signal, time
f = open(\"g\", \"w\"); fcntl.lockf(f, fcntl.LOCK_EX); print(\"posix lock\")
r, w = os.pipe(); os.write(w, b\"x\"); print(select.select([r], [], [], 1)[0] == [r])
pid = os.fork()
if pid == 0: os._exit(5)
print(os.waitpid(pid, 0)[1] >> 8)
signal.signal(signal.SIGALRM, lambda *a: print(\"alarm\")); signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.2)
os.setxattr(\"g\", \"user.k\", b\"v\"); print(os.getxattr(\"g\", \"user.k\")); print(os.sched_getaffinity(0) != set()); print(os.eventfd(0) > 0, os.memfd_create(\"m\") > 0, os.pidfd_open(os.getpid()) > 0)
"'; echo task-done"#,
        ),
        task(
            "ptrace-tools",
            &["strace", "gdb"],
            r#"in_wall 'strace -f -e trace=execve -o /dev/null /bin/true && echo strace-ok; gdb -q -batch -ex run -ex quit /bin/true 2>/dev/null | grep -c "exited normally"'; echo task-done"#,
        ),
        task(
            "su-and-setuid",
            &["bash"],
            r#"in_wall 'id -u; whoami; test -w . && echo writable; stat -c %U:%G . | sed "s/.*:/group:/" | wc -l; touch mine; test "$(stat -c %u mine)" = "$(id -u)" && echo owned'; stat -c %U mine; echo task-done"#,
        ),
        task(
            "killed-as-they-start",
            &["python3"],
            r#"in_wall '
python3 - <<"PY"
import subprocess as p
def ended(how):
    child = p.Popen(["cat"], stdin=p.PIPE)
    how(child)
    return child.wait(5)
print({ended(p.Popen.kill) for _ in range(150)}, {ended(p.Popen.terminate) for _ in range(150)})
print(p.run(["echo", "the next one starts"], capture_output=True).stdout)
PY
'; echo task-done"#,
        ),
        Task {
            limit: 200,
            ..task(
                "terminal-editor",
                &["tmux", "vim"],
                r#"
S="tmux -L aw$$ -f /dev/null"; declare -f run > env.sh; export -f run
$S new-session -d -x 80 -y 24 "bash -c 'run vim -u NONE -i NONE -n typed.txt; echo left \$?; sleep 30'"
for i in $(seq 250); do $S capture-pane -p | grep -q typed.txt && break; sleep 0.1; done
$S send-keys i 'hello from a terminal' Enter 'second line' Escape; sleep 0.5
$S resize-window -x 100 -y 30; sleep 0.5; $S send-keys ':call writefile([&columns . "x" . &lines], "size.txt")' Enter; sleep 0.3
$S send-keys ':wq' Enter
for i in $(seq 250); do $S capture-pane -p | grep -q 'left 0' && break; sleep 0.1; done
$S capture-pane -p | grep left; $S kill-server 2>/dev/null; rm -f env.sh; cat typed.txt size.txt; echo task-done"#,
            )
        },
        Task {
            limit: 200,
            ..task(
                "terminal-signals",
                &["tmux"],
                r#"
S="tmux -L aw$$ -f /dev/null"; export -f run
$S new-session -d -x 80 -y 24 "bash --norc --noprofile"
type run | tail -n +2 > /dev/null; screen() { $S capture-pane -p; }
idle() { for i in $(seq 250); do screen | grep -v "^$" | tail -1 | grep -q "^ready> *$" && return; sleep 0.1; done; echo "not idle"; screen; }
until_shown() { for i in $(seq 250); do screen | grep -q "$1" && return; sleep 0.1; done; echo "never shown: $1"; screen; }
$S send-keys "PS1='ready> '; clear" Enter; until_shown 'ready>'
idle; $S send-keys "run sh -c 'echo sleep-begins; sleep 50'" Enter; until_shown '^sleep-begins'; sleep 0.3; $S send-keys C-c; idle; $S send-keys 'echo int=$?' Enter; until_shown 'int=130'; screen | grep -o '^int=.*'
idle; $S send-keys "run sh -c 'trap \"echo caught\" INT; echo loop-begins; while :; do sleep 0.2; done'" Enter; until_shown '^loop-begins'; $S send-keys C-c; until_shown '^.*caught$'; $S send-keys 'C-\'; sleep 0.7
idle; $S send-keys "run sh -c 'stty size'" Enter; until_shown '24 80'; $S resize-window -x 90 -y 20; sleep 0.3; idle; $S send-keys "run stty size" Enter; until_shown '20 90'
idle; $S send-keys "clear; run bash --norc --noprofile -i" Enter; until_shown '^bash-'; $S send-keys 'sleep 60' Enter; sleep 0.7; $S send-keys C-z; until_shown Stopped; $S send-keys 'kill -9 %1; wait; clear; echo killed' Enter; until_shown '^killed'; $S send-keys 'exit 9' Enter; until_shown '^ready>'; idle; $S send-keys 'echo code=$?' Enter; until_shown 'code=9'; screen | grep -o '^code=.*'
$S kill-server 2>/dev/null; echo task-done"#,
            )
        },
    ]
}
