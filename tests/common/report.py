"""Results: one line per check, and the plain closing line that other tools read."""

import sys


class Report:
    """Counts checks. A failed check never stops the others."""

    def __init__(self, wanted):
        self.wanted = wanted          # only cases whose name contains this text
        self.passed = self.failed = self.skipped = 0
        self.where = ""

    def case(self, name):
        """Begins a case; False when the command line asked for others."""
        self.where = name
        return self.wanted in name

    def check(self, what, good, found=""):
        """`found` is shown on failure: what was there instead. Returns `good` as a truth value."""
        if good:
            self.passed += 1
            print(f"ok   {self.where}: {what}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL {self.where}: {what}", flush=True)
            for line in str(found).strip().splitlines()[-12:]:
                print(f"         {line[:300]}", flush=True)
        return bool(good)

    def skip(self, what, why):
        self.skipped += 1
        print(f"skip {self.where}: {what}: {why}", flush=True)

    def close(self):
        """Prints `N passed, N failed, N skipped`; the exit status."""
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        sys.stdout.flush()
        return 1 if self.failed or not self.passed else 0
