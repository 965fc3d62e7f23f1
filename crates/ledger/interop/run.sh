#!/bin/sh
# Checks our checkpoints, tiles and proofs with Go's golang.org/x/mod/sumdb, the reference
# implementation of signed notes and transparency-log tiles.
# Needs the Debian packages golang-go and golang-golang-x-mod-dev; fails when they are missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
gocode=/usr/share/gocode
if ! command -v go >/dev/null || [ ! -d "$gocode/src/golang.org/x/mod/sumdb/note" ]; then
    echo "interop: install the packages golang-go and golang-golang-x-mod-dev" >&2
    exit 1
fi
command -v cargo >/dev/null || { echo "interop: cargo is not in the PATH" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
export GO111MODULE=off GOPATH="$gocode" GOFLAGS= GOCACHE="${GOCACHE:-$work/cache}"
go build -o "$work/verify" "$here/verify.go"

for size in 300 70000; do
    mkdir "$work/$size"
    cargo run --quiet --manifest-path "$here/../Cargo.toml" --example interop -- "$work/$size" "$size"
    "$work/verify" "$work/$size"
done

# The checker must be able to fail.
last=$(find "$work/300/ledger/tile/entries/000" -type f)
printf 'X' | dd of="$last" bs=1 seek=20 conv=notrunc 2>/dev/null
if "$work/verify" "$work/300" 2>/dev/null; then
    echo "interop: a changed entry was accepted" >&2
    exit 1
fi
echo "interop: ok"
