#!/bin/sh
# Checks policy tables with a walker that knows only their specification (walk.c, docs/policy-table.md):
# all vectors, and questions about generated policies. Needs a C compiler; fails when there is none.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
command -v cc >/dev/null || { echo "table: install a C compiler (the package gcc)" >&2; exit 1; }
command -v cargo >/dev/null || { echo "table: cargo is not in the PATH" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cc -std=c99 -O1 -Wall -Wextra -Werror -pedantic -o "$work/walk" "$here/walk.c"

# The tests compare tables with the interpreter, and write what they asked.
mkdir "$work/asked"
POLICY_QUESTIONS="$work/asked" cargo test --quiet --locked --manifest-path "$here/../Cargo.toml" \
    --test table -- vectors_hold a_table_says_what_the_interpreter_says >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }

passed=0 failed=0 asked=0 undecided=0
for table in "$work"/asked/*.awpt; do
    name=${table%.awpt}
    # A walker that breaks off has fewer answers.
    "$work/walk" "$table" <"$name.questions" >"$name.found" || true
    if cmp -s "$name.found" "$name.answers"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "table: $(basename "$name"): question, our answer, the walker's answer" >&2
        paste "$name.questions" "$name.answers" "$name.found" | head -500 |
            awk -F '\t' '{ n = NF } { print }' | head -5 >&2
    fi
    asked=$((asked + $(wc -l <"$name.questions")))
    undecided=$((undecided + $(grep -c '^?' "$name.answers" || true)))
done

# On a little-endian host the stored tables are used as they are.
if [ "$(printf '\001\000' | od -An -tu2 | tr -d ' ')" = 1 ]; then
    for table in "$here"/../vectors/*.awpt; do
        name="$work/asked/vectors-$(basename "${table%.awpt}")"
        if "$work/walk" "$table" <"$name.questions" | cmp -s - "$name.answers"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "table: the walker differs on the stored $(basename "$table")" >&2
        fi
    done
fi

# The comparison must be able to fail: what a table says is changed, then its length.
table="$work/asked/vectors-paths"
cp "$table.awpt" "$work/changed"
printf '\003' | dd of="$work/changed" bs=1 seek=48 conv=notrunc 2>/dev/null # a default
"$work/walk" "$work/changed" <"$table.questions" >"$work/found"
head -c 4000 "$table.awpt" >"$work/cut"
if cmp -s "$work/found" "$table.answers" ||
    "$work/walk" "$work/cut" <"$table.questions" >/dev/null 2>&1; then
    echo "table: a changed table was taken for the right one" >&2
    exit 1
fi
[ "$asked" -gt 5000 ] || { echo "table: only $asked questions" >&2; exit 1; }
echo "table: $asked questions, $undecided of them not decided by a table"
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
