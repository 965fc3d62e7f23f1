"""The rows of the ledger: what a sealed entry costs beside one flush, and what reading a long log costs.

crates/ledger/examples/measure.rs does the work; what is compared takes turns in one process. The naive
hash chain is what stands in many agent logs: a line with the hash of the one before, and an `fsync`.
"""

import json
import os
import statistics
import subprocess
import time

from measure import Unmeasured, interleave, mad, ratio_row, row

MIB = 1 << 20
LONG = 10_000_000


def ledger(bench):
    """Sealing, group commits, verification, proofs, opening."""
    quick = 10 if bench.quick else 1
    programs = build(bench)
    yield from seal(bench, programs, 2000 // quick)
    yield from writers(bench, programs, 1 if bench.quick else 4)
    yield from reading(bench, programs, 1_000_000 // quick)
    yield from opening(bench, programs, LONG // quick)


def seal(bench, programs, rounds):
    told = ask(programs, "seal", f"{bench.folder}/seal", rounds)
    yield ratio_row("sealed entry : fdatasync of its bytes", "ms", 1e-6, told["log"], told["fdatasync"], 1.5,
                    "p50; one writer, every entry durable before the next; an append and fdatasync of the same "
                    "bytes in turn")
    yield ratio_row("sealed entry : naive hash chain", "ms", 1e-6, told["log"], told["chain"], None,
                    "the same turns; a line with the hash of the one before, fsync each")
    ordered = sorted(told["log"])
    yield row("sealed entry, p99", ordered[len(ordered) * 99 // 100] / 1e6, "ms",
              statistics.median(ordered) / 1e6, ordered[len(ordered) * 99 // 100] / statistics.median(ordered),
              "none, to know", True, len(ordered), 0, "baseline: its p50")


def writers(bench, programs, seconds):
    runs = [ask(programs, "writers", f"{bench.folder}/writers", seconds) for _ in range(3)]
    ours, chain = [r["log"] for r in runs], [r["chain"] for r in runs]
    value, base = statistics.median(ours), statistics.median(chain)
    yield row("durable entries, 64 writers", value, "1/s", base, value / base, ">= 20000 1/s", value >= 20_000,
              len(ours), mad(ours), "each writer waits until its entry is durable; baseline: the naive hash chain "
              "behind a mutex, fsync each")


def reading(bench, programs, count):
    folder = f"{bench.folder}/million"
    told = ask(programs, "write", folder, count)
    tiny = [programs["tiny"], "log", f"{folder}/ledger", "--key", told["key"]]
    ours, small, peer = interleave([lambda: cost([programs["measure"], "verify", folder]),
                                    lambda: cost(tiny),
                                    lambda: cost([programs["measure"], "peer", folder])],
                                   1 if bench.quick else 3, 0)
    for name, runs in (("agentwall ledger verify", ours), ("agentwall-ledger-verify", small)):
        yield ratio_row(f"{name} : tlog_tiles, {count} entries", "s", 1, [r[0] for r in runs],
                        [r[0] for r in peer], None, "wall time of the process; the peer checks checkpoint, tiles "
                        "and bundles, not that no other file is there")
        took, peak = statistics.median(r[0] for r in runs), max(r[1] for r in runs)
        yield row(f"{name}, {count} entries", took, "s", 10, took / 10, "<= 10 s", took <= 10, len(runs),
                  mad([r[0] for r in runs]), "every byte of every entry, tile and checkpoint")
        yield row(f"{name}, {count} entries, peak memory", peak / MIB, "MiB", 256, peak / MIB / 256,
                  "<= 256 MiB", peak <= 256 * MIB, len(runs), 0, "largest resident set of the process")
    proofs = ask(programs, "prove", folder, 2000)["prove"]
    value = statistics.median(proofs) / 1e6
    yield row(f"inclusion proof from disk, {count} entries", value, "ms", 1, value, "<= 1 ms", value <= 1,
              len(proofs), mad(proofs) / 1e6, "p50; log opened anew, checkpoint's signature checked, random entry; "
              "files in the page cache")


def opening(bench, programs, count):
    folder = f"{bench.folder}/long"
    ask(programs, "write", folder, count)
    times = ask(programs, "open", folder, 50)["open"]
    value = statistics.median(times) / 1e6
    yield row(f"open a log of {count} entries", value, "ms", 100, value / 100, "<= 100 ms", value <= 100,
              len(times), mad(times) / 1e6, "p50; for writing: signature, right edge, open bundle, left-overs; files in "
              "the page cache")


def build(bench):
    """The two programs, released."""
    done = subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "-p", "agentwall-ledger", "-p",
                           "agentwall-ledger-verify", "--bins", "--example", "measure"], cwd=bench.root,
                          check=False)
    target = os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{bench.root}/target"), "release")
    if done.returncode != 0:
        raise Unmeasured(f"the ledger's programs do not build: exit {done.returncode}")
    return {"measure": f"{target}/examples/measure", "tiny": f"{target}/agentwall-ledger-verify"}


def ask(programs, verb, folder, number):
    done = subprocess.run([programs["measure"], verb, folder, str(number)], check=False, text=True,
                          capture_output=True)
    if done.returncode != 0:
        raise Unmeasured(f"measure {verb}: {done.stderr[-600:]}")
    return json.loads(done.stdout)


def cost(command):
    """Wall seconds and peak resident bytes of a process."""
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Unmeasured(f"{command}: {said[-600:]!r}")
    return time.monotonic() - start, usage.ru_maxrss * 1024


GROUPS = [ledger]
