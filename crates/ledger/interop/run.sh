#!/bin/sh
# The ledger against foreign implementations: our logs and proofs checked with Go's
# golang.org/x/mod/sumdb, the reference implementation of signed notes and transparency-log hashing; and the
# forgery corpus against every verifier, Go's with them (crates/ledger-verify/FORGERIES.md).
# Needs the Debian packages golang-go and golang-golang-x-mod-dev; fails when they are missing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
workspace=$here/../../..
gocode=/usr/share/gocode
if ! command -v go >/dev/null || [ ! -d "$gocode/src/golang.org/x/mod/sumdb/note" ]; then
    echo "interop: install the packages golang-go and golang-golang-x-mod-dev" >&2
    exit 1
fi
command -v cargo >/dev/null || { echo "interop: cargo is not in the PATH" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
export GO111MODULE=off GOPATH="$gocode" GOFLAGS= GOCACHE="${GOCACHE:-$work/cache}"
go vet "$here/verify.go"
go build -o "$work/verify" "$here/verify.go"
go build -o "$work/cosigned" "$here/cosigned.go"

# What the library makes: private keys as Go reads them, proofs and consistency proofs of many sizes.
for size in 300 70000; do
    mkdir "$work/$size"
    cargo run --quiet --manifest-path "$here/../Cargo.toml" --example interop -- "$work/$size" "$size"
    cd "$work/$size"
    key=$(cat vkey)
    "$work/verify" key key --key "$key"
    "$work/verify" log ledger --key "$key"
    "$work/cosigned" "$work/$size"
    for entry in entry-*; do
        "$work/verify" proof "proof-${entry#entry-}" --entry "$entry" --key "$key" >/dev/null
    done
    for former in former-*; do
        old=${former#former-}
        "$work/verify" log ledger --former "$former" --key "$key" >/dev/null
        "$work/verify" consistency "consistency-$old" --former "$former" --checkpoint ledger/checkpoint \
            --key "$key" >/dev/null
        # The checker must be able to fail.
        if [ "$old" != 1 ] && "$work/verify" consistency "consistency-$old" --former former-1 \
            --checkpoint ledger/checkpoint --key "$key" >/dev/null 2>&1; then
            echo "interop: the consistency proof from $old entries was accepted for 1" >&2
            exit 1
        fi
    done
done

# Opened fields, from the specification alone.
python3 "$here/disclosure.py" vectors "$here/../vectors/leaf.json"

cd "$workspace"
LEDGER_VERIFY_GO="$work/verify" cargo test --quiet --locked -p agentwall-ledger-verify -- --nocapture
echo "interop: ok"
