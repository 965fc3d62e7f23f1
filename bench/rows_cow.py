"""The rows of a session's copy: reading through it, working in it, and committing it.

A commit is measured against `rsync -a --fsync`, which makes the same copy and syncs each file; it does not
look whether anybody changed the originals, has no journal, and keeps none of them. Both work on trees of
their own, made anew for each run and synced before it, turn by turn.
"""

import json
import os
import shutil
import subprocess
import time

from measure import Unmeasured, interleave, ratio_row
from rows_wall import FILES

CHANGED, SIZE = 10_000, 2_000
PACKAGES = {"express": "4.21.2", "lodash": "4.17.21", "eslint": "9.17.0"}


def fill(root, files, size):
    """Files in folders of fifty, each with content of its own."""
    for index in range(files):
        folder = f"{root}/d{index // 1000:02}/e{index // 50 % 20:02}"
        if index % 50 == 0:
            os.makedirs(folder)
        with open(f"{folder}/f{index}.txt", "w", encoding="utf-8") as file:
            file.write(f"{index}\n" + "x" * size)


def run(bench, command, **more):
    """Runs a command that must work; nanoseconds."""
    start = time.monotonic_ns()
    done = subprocess.run(command, env=bench.env, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False, **more)
    taken = time.monotonic_ns() - start
    if done.returncode != 0:
        raise Unmeasured(f"{command[0]}: exit {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    return taken


def overlay_of(bench, tree):
    """A probe beside a plain overlay of the tree, mounted as the wall mounts one, and its place."""
    folder = f"{bench.folder}/plain"
    for name in ("upper", "work", "merged"):
        os.makedirs(f"{folder}/{name}")
    mount = (f"mount -t overlay overlay -o lowerdir={tree},upperdir={folder}/upper,"
             f"workdir={folder}/work,userxattr {folder}/merged")
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
               f"{mount}; exec {bench.probe}"]
    return bench.probe_of(command), f"{folder}/merged"


def reading(bench):
    """Walk, stat and read of a tree that is isolated; and what of it is overlayfs without a wall."""
    tree = f"{bench.workspace}/cow-tree"
    fill(tree, FILES, 100)
    for name, verb in (("walk", "walk"), ("walk and stat", "walkstat"),
                       ("walk, open and read", "walkread")):
        wall, native = bench.compare(f"{verb} {tree} {FILES}", 25)
        yield ratio_row(f"{name} of {FILES} isolated files", "ms", 1e-6, wall, native, 1.05,
                        "one pass through the tree, warm, interleaved with native")
        plain, merged = overlay_of(bench, tree)
        native = bench.probe_of([bench.probe])
        try:
            over, under = interleave([lambda: plain.ask(f"{verb} {merged} {FILES}"),
                                      lambda: native.ask(f"{verb} {tree} {FILES}")],
                                     bench.runs(25))
        finally:
            plain.close()
            native.close()
            shutil.rmtree(f"{bench.folder}/plain")
        yield ratio_row(f"{name} of {FILES} files of a plain overlay", "ms", 1e-6, over, under, None,
                        "the same without a wall, on an overlay in a user namespace")
    shutil.rmtree(tree)


class Copies:
    """The same change of the same tree, to be committed and to be copied."""

    def __init__(self, bench):
        self.bench, self.turn = bench, 0
        self.folder = f"{bench.folder}/copies"
        os.makedirs(self.folder)
        self.original, self.changed = f"{self.folder}/original", f"{self.folder}/changed"
        fill(self.original, CHANGED, SIZE)
        shutil.copytree(self.original, self.changed)
        self.rewrite(self.changed, [])
        self.policy = bench.write_policy("commit", [
            {"id": "bench-commit", "priority": 4, "action": "file.commit",
             "resource": f"{self.folder}/**", "effect": "allow"}])

    def rewrite(self, tree, wall):
        """Every file of the tree, two bytes longer."""
        done = subprocess.run([*wall, self.bench.probe], input=f"rewrite {tree} {CHANGED}\n",
                              env=self.bench.env, capture_output=True, text=True, check=False)
        if not done.stdout.strip().isdigit():
            raise Unmeasured(f"the change of {CHANGED} files: {done.stdout}{done.stderr[-600:]}")

    def fresh(self):
        """A tree that nobody has changed yet."""
        self.turn += 1
        tree = f"{self.folder}/turn-{self.turn}"
        subprocess.run(["cp", "-a", self.original, tree], check=True)
        return tree

    def commit(self):
        tree = self.fresh()
        self.rewrite(tree, [self.bench.binary, "run", "--policy", self.policy, "--workspace", tree,
                            "--keep", "--"])
        os.sync()
        taken = run(self.bench, [self.bench.binary, "commit", "--yes"], cwd=tree)
        self.check(tree)
        return taken

    def rsync(self):
        tree = self.fresh()
        os.sync()
        taken = run(self.bench, ["rsync", "-a", "--fsync", f"{self.changed}/", f"{tree}/"])
        self.check(tree)
        return taken

    def check(self, tree):
        """It is the changed tree; then it goes."""
        run(self.bench, ["diff", "-r", self.changed, tree])
        # What an undo would need goes as well, or each turn would leave its own.
        if os.path.isdir(f"{self.folder}/turn-{self.turn}"):
            shutil.rmtree(tree)


def committing(bench):
    """Ten thousand changed small files."""
    copies = Copies(bench)
    ours, theirs = interleave([copies.commit, copies.rsync], bench.runs(7))
    yield ratio_row(f"commit of {CHANGED} changed files", "s", 1e-9, ours, theirs, 1.5,
                    f"{SIZE} bytes each, against rsync -a --fsync of the same change; interleaved, each "
                    "on a fresh tree, synced before")
    shutil.rmtree(copies.folder)


def npm(bench):
    """`npm install` out of a cache that was filled before."""
    if shutil.which("npm") is None:
        raise Unmeasured("npm is not installed")
    project = f"{bench.workspace}/npm"
    os.makedirs(project)
    with open(f"{project}/package.json", "w", encoding="utf-8") as file:
        json.dump({"name": "user", "version": "1.0.0", "dependencies": PACKAGES}, file)
    cache = f"{bench.workspace}/npm-cache"
    command = (f"npm --cache {cache} --no-audit --no-fund --no-update-notifier --ignore-scripts "
               "--omit-lockfile-registry-resolved=false --loglevel error install")
    run(bench, ["sh", "-c", command], cwd=project)
    wall, native = bench.compare(f"sh cd {project} && {command} --offline >/dev/null 2>&1", 7,
                                 before=f"sh rm -rf {project}/node_modules")
    yield ratio_row(f"npm install of {' and '.join(PACKAGES)}", "s", 1e-9, wall, native, 1.10,
                    "from an empty node_modules, offline from a full cache, interleaved with native")


def cow(bench):
    """All rows of this file."""
    for part in (reading, committing, npm):
        yield from part(bench)


GROUPS = [cow]
