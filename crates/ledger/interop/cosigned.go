// Checks a cosigned checkpoint and a proof under it with golang.org/x/mod/sumdb. The cosignature is checked
// from the text of c2sp.org/tlog-cosignature, through the interface that the note package has for other keys.
//
// usage: cosigned FOLDER, as written by the example program "interop".
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// cosigner verifies the lines of one witness.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }

func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	head := fmt.Sprintf("cosignature/v1\ntime %d\n", binary.BigEndian.Uint64(sig))
	return ed25519.Verify(c.key, append([]byte(head), msg...), sig[8:])
}

// newCosigner reads a vkey of type 4.
func newCosigner(vkey string) cosigner {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		fail("witness: not a vkey")
	}
	blob, err := base64.StdEncoding.DecodeString(parts[2])
	check(err, "witness")
	if len(blob) != 1+ed25519.PublicKeySize || blob[0] != 4 {
		fail("witness: not a key of type 4")
	}
	digest := sha256.Sum256([]byte(parts[0] + "\n" + string(blob)))
	if hex.EncodeToString(digest[:4]) != parts[1] {
		fail("witness: the key id is another one")
	}
	return cosigner{parts[0], binary.BigEndian.Uint32(digest[:4]), blob[1:]}
}

func main() {
	if len(os.Args) != 2 {
		fail("usage: cosigned FOLDER")
	}
	root := os.Args[1]
	log, err := note.NewVerifier(read(root, "vkey"))
	check(err, "vkey")
	witness := newCosigner(read(root, "witness-vkey"))
	both := note.VerifierList(log, witness)

	data := read(root, "ledger/checkpoint.cosigned")
	n, err := note.Open([]byte(data), both)
	check(err, "checkpoint.cosigned")
	if len(n.Sigs) != 2 || len(n.UnverifiedSigs) != 0 {
		fail("checkpoint.cosigned: not signed by the log and the witness")
	}
	// A reader that does not know the witness reads on.
	n, err = note.Open([]byte(data), note.VerifierList(log))
	check(err, "checkpoint.cosigned")
	if len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 1 {
		fail("checkpoint.cosigned: the cosignature is not a line of its own")
	}
	// The checker must be able to fail.
	last := strings.LastIndex(data, " ") + 1
	blob, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(data[last:], "\n"))
	check(err, "cosignature")
	for _, at := range []int{11, 12, len(blob) - 1} {
		blob[at] ^= 1
		changed := data[:last] + base64.StdEncoding.EncodeToString(blob) + "\n"
		if _, err := note.Open([]byte(changed), both); err == nil {
			fail("a changed cosignature was accepted")
		}
		blob[at] ^= 1
	}

	// A proof of an entry under it.
	text := read(root, "cosigned-proof")
	split := strings.Index(text, "\n\n")
	if split < 0 || text[split+2:] != data {
		fail("cosigned-proof: not under the cosigned checkpoint")
	}
	head := strings.Split(text[:split], "\n")
	if len(head) < 3 || head[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(head[1], "extra ") {
		fail("cosigned-proof: not a tlog-proof with its entry")
	}
	entry, err := base64.StdEncoding.DecodeString(head[1][len("extra "):])
	check(err, "extra")
	index, err := strconv.ParseInt(strings.TrimPrefix(head[2], "index "), 10, 64)
	check(err, "index")
	var proof tlog.RecordProof
	for _, line := range head[3:] {
		hash, err := tlog.ParseHash(line)
		check(err, line)
		proof = append(proof, hash)
	}
	body := strings.Split(n.Text, "\n")
	size, err := strconv.ParseInt(body[1], 10, 64)
	check(err, "size")
	top, err := tlog.ParseHash(body[2])
	check(err, "root")
	check(tlog.CheckRecord(proof, size, top, index, tlog.RecordHash(entry)), "cosigned-proof")
	fmt.Printf("ok: a cosigned checkpoint of %d entries and a proof under it\n", size)
}

func read(root, name string) string {
	data, err := os.ReadFile(filepath.Join(root, name))
	check(err, name)
	return string(data)
}

func check(err error, what string) {
	if err != nil {
		fail(what + ": " + err.Error())
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}
