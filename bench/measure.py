"""Measuring: interleaved runs, medians, noise; one row of bench/results.json.

A ratio is the quotient of two medians; its spread is the median absolute deviation (MAD) of the
ratios of the interleaved pairs, so that it says how far one comparison is from another in this run.
"""

import json
import os
import random
import statistics
import subprocess


class Probe:
    """One probe process (probe.c), native or behind a wall; `ask` gives nanoseconds."""

    def __init__(self, command, cwd, env=None):
        self.process = subprocess.Popen(command, cwd=cwd, env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.ask("ready")

    def ask(self, request):
        self.tell(request)
        return self.hear(request)

    def tell(self, request):
        """The first half of `ask`; `hear` is the other."""
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # It is heard.

    def hear(self, request):
        answer = self.process.stdout.readline().strip()
        if not answer.isdigit():
            if answer.startswith("error "):
                number = int(answer.split()[1])
                raise Unmeasured(f"{request!r}: {os.strerror(number)}")
            self.process.kill()
            raise Unmeasured(f"{request!r}: {answer!r}: {self.process.stderr.read()[-600:]}")
        return int(answer)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Unmeasured(Exception):
    """The thing could not be done at all; the row is then an error, never a number."""


def interleave(functions, runs, warm=1):
    """Calls every function `runs` times in turns, in a random order per turn; each returns a
    number. Gives one list of numbers per function."""
    out = [[] for _ in functions]
    for turn in range(runs + warm):
        order = list(range(len(functions)))
        random.shuffle(order)
        for index in order:
            value = functions[index]()
            if turn >= warm:
                out[index].append(value)
    return out


def mad(values):
    """The median absolute deviation."""
    middle = statistics.median(values)
    return statistics.median(abs(v - middle) for v in values)


def ratio_row(name, unit, scale, wall, native, limit, method, at_least=False):
    """A row whose target is on the ratio wall / baseline; `scale` turns numbers into the unit.
    Without a limit the row informs, and is always ok."""
    value, base = statistics.median(wall) * scale, statistics.median(native) * scale
    ratio = value / base
    target, good = "none, to know", True
    if limit is not None:
        target = f"ratio {'>=' if at_least else '<='} {limit}"
        good = ratio >= limit if at_least else ratio <= limit
    return row(name, value, unit, base, ratio, target, good,
               len(wall), mad([w / n for w, n in zip(wall, native)]), method)


def extra_row(name, unit, scale, wall, native, limit, method):
    """A row whose target is on the difference wall - baseline."""
    value, base = statistics.median(wall) * scale, statistics.median(native) * scale
    target = "none, to know" if limit is None else f"extra <= {limit} {unit}"
    return row(name, value - base, unit, base, value / base, target,
               limit is None or value - base <= limit, len(wall),
               mad([(w - n) * scale for w, n in zip(wall, native)]), method)


def row(name, value, unit, baseline, ratio, target, ok, runs, spread, method):
    return {"name": name, "value": round(value, 4), "unit": unit, "baseline": round(baseline, 4),
            "ratio": round(ratio, 4), "target": target, "ok": ok, "runs": runs,
            "spread": round(spread, 4), "method": method}


def show(row):
    mark = "ok  " if row["ok"] else "MISS"
    print(f"{mark} {row['name']:<40} {row['value']:>10.3f} {row['unit']:<6} baseline "
          f"{row['baseline']:>10.3f}  ratio {row['ratio']:>7.3f} ±{row['spread']:.3f}  "
          f"({row['target']}, {row['runs']} runs)", flush=True)


def save(rows):
    """Replaces the rows of results.json measured now, keeps the others; the file is swapped whole."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results.json")
    kept = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            names = {row["name"] for row in rows}
            kept = [row for row in json.load(file) if row["name"] not in names]
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(kept + rows, file, indent=2)
        file.write("\n")
    os.replace(path + ".tmp", path)
