"""What the runner answers to runs that went wrong: each must be a failure. Played before every full run, on
lines as the machine says them, since a runner that passes everything is not seen otherwise."""

import subprocess

GOOD = ["@@up 3.0", "@@begin vm", "ok one", "1 passed, 0 failed, 0 skipped", "@@end vm 0", "@@done"]
OOPS = "[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000000"

# name, lines of the guest, lines of its kernel, lines of its log; passed, failed and skipped that must come of it
RUNS = [
    ("a good run passes", GOOD, ["[    9.1] reboot: Power down"], [], (1, 0, 0)),
    ("complaints about programs are none", GOOD,
     ["[    9.1] traps: a[12] general protection fault ip:0 sp:0 error:0"], [], (1, 0, 0)),
    ("a failed case counts", [*GOOD[:3], "FAIL two: why", "1 passed, 1 failed, 2 skipped",
                              "@@end vm 1", "@@done"], [], [], (1, 1, 2)),
    ("an oops is a failure", GOOD, [OOPS], [], (1, 1, 0)),
    ("an oops that is on the console and in the log is one", GOOD, [OOPS], [OOPS], (1, 1, 0)),
    ("a warning in the log is a failure", GOOD, [],
     ["[    5.0] WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1 f+0x1/0x2"], (1, 1, 0)),
    ("a lock-up is a failure", GOOD,
     ["[   40.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [a:1]"], [], (1, 1, 0)),
    ("no closing line is a failure", [*GOOD[:3], "@@end vm 0", "@@done"], [], [], (0, 1, 0)),
    ("a status without a failed case is a failure", [*GOOD[:4], "@@end vm 101", "@@done"], [], [],
     (1, 1, 0)),
    ("off in the middle of a suite is a failure", GOOD[:4], [], [], (0, 1, 0)),
    ("never up is a failure", [], ["[    0.1] Kernel panic - not syncing: VFS"], [], (0, 2, 0)),
    ("a part of the set-up that fails is a failure",
     [], ["vm-init: failed: mount -t bpf bpf /sys/fs/bpf"], [], (0, 2, 0)),
    ("a program that is not verified is a failure",
     [*GOOD[:2], "libbpf: prog 'x': -- BEGIN PROG LOAD LOG --", *GOOD[2:]], [], [], (1, 1, 0)),
]


def check(verdict_of, program):
    """(name, None or why it fails) of each; `program` is the suite, which must refuse outside of the machine."""
    for name, out, kernel, log, expected in RUNS:
        verdict = verdict_of()
        for source, lines in (("out", out), ("kernel", kernel)):
            for line in lines:
                verdict.line(source, line)
        verdict.finish(log)
        found = (verdict.passed, verdict.failed, verdict.skipped)
        yield name, None if found == expected else f"expected {expected}, found {found}"
    outside = subprocess.run([program], stdout=subprocess.PIPE, text=True)
    refused = outside.returncode == 2 and "make vmtest" in outside.stdout
    yield "the suite refuses outside of the machine", None if refused else outside.stdout
