// Checks a log and its proofs with the reference implementation, golang.org/x/mod/sumdb.
//
// usage: verify FOLDER, as written by the example program "interop".
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: verify FOLDER")
	}
	root := os.Args[1]
	verifier, err := note.NewVerifier(text(root, "vkey"))
	check(err, "vkey")
	skey := strings.TrimSuffix(text(root, "key"), "\n")
	signer, err := note.NewSigner(skey)
	check(err, "private key")
	if signer.KeyHash() != verifier.KeyHash() || signer.Name() != verifier.Name() {
		fail("private key and vkey differ")
	}
	tree := checkpoint(root, read(root, "ledger/checkpoint"), verifier)
	tiles(root, tree)
	inclusion, consistency := 0, 0
	for _, path := range glob(root, "proof-*") {
		index := strings.TrimPrefix(filepath.Base(path), "proof-")
		proof(root, index, verifier)
		inclusion++
	}
	for _, path := range glob(root, "consistency-*") {
		old := strings.TrimPrefix(filepath.Base(path), "consistency-")
		size, err := strconv.ParseInt(old, 10, 64)
		check(err, path)
		oldRoot, err := tlog.ParseHash(text(root, "root-"+old))
		check(err, path)
		check(tlog.CheckTree(hashes(lines(text(root, filepath.Base(path)))), tree.N, tree.Hash, size, oldRoot), path)
		oldRoot[0] ^= 1
		if tlog.CheckTree(hashes(lines(text(root, filepath.Base(path)))), tree.N, tree.Hash, size, oldRoot) == nil {
			fail("a wrong root was accepted")
		}
		consistency++
	}
	if inclusion < 4 || consistency < 4 {
		fail("too few proofs to check")
	}
	fmt.Printf("ok: signed checkpoint of %d entries, all tiles and bundles, %d inclusion and %d consistency proofs\n",
		tree.N, inclusion, consistency)
}

// checkpoint verifies a signed checkpoint and returns what it says.
func checkpoint(root string, data []byte, verifier note.Verifier) tlog.Tree {
	n, err := note.Open(data, note.VerifierList(verifier))
	check(err, "checkpoint")
	body := strings.Split(n.Text, "\n")
	if len(body) != 4 || body[0] != verifier.Name() || body[3] != "" {
		fail("checkpoint: not the three lines origin, size, root")
	}
	size, err := strconv.ParseInt(body[1], 10, 64)
	check(err, "checkpoint size")
	hash, err := tlog.ParseHash(body[2])
	check(err, "checkpoint root")
	return tlog.Tree{N: size, Hash: hash}
}

// reader reads the tiles of the log for the tlog package, which checks them against the root.
type reader struct{ dir string }

func (r reader) Height() int { return 8 }

func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range tiles {
		// Go writes the tile height into the name, tlog-tiles does not.
		name := strings.Replace(t.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(r.dir, name))
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

// tiles reads every leaf hash through the authenticated tiles and compares it with its entry.
func tiles(root string, tree tlog.Tree) {
	dir := filepath.Join(root, "ledger")
	source := tlog.TileHashReader(tree, reader{dir})
	top, err := tlog.TreeHash(tree.N, source)
	check(err, "tree hash")
	if top != tree.Hash {
		fail("the tiles give another root")
	}
	for start := int64(0); start < tree.N; start += 256 {
		width := tree.N - start
		if width > 256 {
			width = 256
		}
		tile := tlog.Tile{H: 8, L: -1, N: start / 256, W: int(width)}
		name := strings.Replace(tile.Path(), "tile/8/data/", "tile/entries/", 1)
		bundle, err := os.ReadFile(filepath.Join(dir, name))
		check(err, name)
		var indexes []int64
		for i := start; i < start+width; i++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, i))
		}
		leaves, err := source.ReadHashes(indexes)
		check(err, name)
		for i, leaf := range leaves {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				fail(name + ": torn")
			}
			size := 2 + int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:size]) != leaf {
				fail(fmt.Sprintf("%s: entry %d has another hash", name, i))
			}
			bundle = bundle[size:]
		}
		if len(bundle) != 0 {
			fail(name + ": bytes after the last entry")
		}
	}
}

// proof checks an offline proof file.
func proof(root, index string, verifier note.Verifier) {
	data := text(root, "proof-"+index)
	split := strings.Index(data, "\n\n")
	if split < 0 {
		fail("proof-" + index + ": no checkpoint")
	}
	head := lines(data[:split])
	if len(head) < 2 || head[0] != "c2sp.org/tlog-proof@v1" || head[1] != "index "+index {
		fail("proof-" + index + ": not the header of a tlog-proof")
	}
	tree := checkpoint(root, []byte(data[split+2:]), verifier)
	n, err := strconv.ParseInt(index, 10, 64)
	check(err, index)
	leaf := tlog.RecordHash(read(root, "entry-"+index))
	check(tlog.CheckRecord(hashes(head[2:]), tree.N, tree.Hash, n, leaf), "proof-"+index)
	leaf[0] ^= 1
	if tlog.CheckRecord(hashes(head[2:]), tree.N, tree.Hash, n, leaf) == nil {
		fail("a wrong leaf was accepted")
	}
}

func hashes(lines []string) []tlog.Hash {
	out := []tlog.Hash{}
	for _, line := range lines {
		data, err := base64.StdEncoding.DecodeString(line)
		check(err, line)
		var h tlog.Hash
		if copy(h[:], data) != 32 || len(data) != 32 {
			fail("not a hash: " + line)
		}
		out = append(out, h)
	}
	return out
}

func lines(s string) []string {
	s = strings.TrimSuffix(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

func glob(root, pattern string) []string {
	paths, err := filepath.Glob(filepath.Join(root, pattern))
	check(err, pattern)
	return paths
}

func read(root, name string) []byte {
	data, err := os.ReadFile(filepath.Join(root, name))
	check(err, name)
	return data
}

func text(root, name string) string { return string(read(root, name)) }

func check(err error, what string) {
	if err != nil {
		fail(what + ": " + err.Error())
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}
