// Verifies a transparency log, or the proof of one entry, with the reference implementation of signed
// notes and transparency-log hashing, golang.org/x/mod/sumdb, and Go's standard library alone.
//
// usage: verify log DIR --key VKEY [--former FILE] [WITNESSES]
//
//	verify proof FILE --entry FILE --key VKEY [--rotations DIR] [WITNESSES]
//	verify consistency FILE --former FILE --checkpoint FILE --key VKEY
//	verify key FILE --key VKEY
//
// consistency takes the proof as lines of base64, key a private key that must be the other half.
// A log's folder says how its key was replaced: for a proof, --rotations names it.
// WITNESSES is --witness VKEY for each and --quorum K. Exit status: 0 verified, 1 refused, 2 could not be
// looked at.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Longest file that is read: a bundle of 256 entries of 65,535 bytes, each with its length.
const maxFile = 256 * 65537

// signer is a key of the log, and the size from which on it signs; there, the one before it does, too.
type signer struct {
	note.Verifier
	vkey string
	from int64
}

// trust is whom to believe.
type trust struct {
	log       []signer
	witnesses []note.Verifier
	quorum    int
}

func main() {
	if len(os.Args) < 3 || len(os.Args)%2 == 0 {
		stop("usage: verify log DIR | proof FILE | consistency FILE | key FILE, then options and their values")
	}
	verb, path, options := os.Args[1], os.Args[2], map[string]string{}
	var t trust
	keys := map[string]bool{}
	for i := 3; i < len(os.Args); i += 2 {
		name, value := os.Args[i], os.Args[i+1]
		if name == "--witness" {
			t.witnesses = append(t.witnesses, newCosigner(value, keys))
			continue
		}
		if _, twice := options[name]; twice || !strings.Contains(" --key --former --entry --checkpoint --quorum --rotations ", " "+name+" ") {
			stop(name + " is unknown or given twice")
		}
		options[name] = value
	}
	key, err := note.NewVerifier(options["--key"])
	if err != nil {
		stop("--key: " + err.Error())
	}
	t.log = []signer{{key, options["--key"], 0}}
	once(options["--key"], keys)
	if len(t.witnesses) > 0 || options["--quorum"] != "" {
		t.quorum, err = strconv.Atoi(options["--quorum"])
		if err != nil || t.quorum < 1 || t.quorum > len(t.witnesses) {
			stop("--quorum: a number from 1 to that of the witnesses")
		}
	}
	var tree tlog.Tree
	switch verb {
	case "log":
		tree = folder(path, t, options["--former"])
	case "proof":
		if dir, given := options["--rotations"]; given {
			t.log, _ = follow(dir, t.log)
		}
		tree = proof(path, read(options["--entry"], options["--entry"]), t)
	case "consistency":
		tree = open(options["--checkpoint"], options["--checkpoint"], t)
		former := open(options["--former"], options["--former"], trust{log: t.log})
		list := strings.TrimSuffix(string(read(path, path)), "\n")
		check(path, tlog.CheckTree(hashes(path, list), tree.N, tree.Hash, former.N, former.Hash))
	case "key":
		signer, err := note.NewSigner(strings.TrimSuffix(string(read(path, path)), "\n"))
		check(path, err)
		if signer.Name() != key.Name() || signer.KeyHash() != key.KeyHash() {
			refuse(path, "another key")
		}
	default:
		stop("no command is called " + verb)
	}
	fmt.Printf("verified: %s of %d entries, root %s\n", verb, tree.N, tree.Hash)
}

// cosigner checks Ed25519 cosignatures, c2sp.org/tlog-cosignature.
type cosigner struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.id }
func (c cosigner) Verify(text, blob []byte) bool {
	if len(blob) != 8+ed25519.SignatureSize || blob[0] > 0x7f {
		return false
	}
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(blob), text)
	return ed25519.Verify(c.key, []byte(message), blob[8:])
}

func newCosigner(vkey string, keys map[string]bool) note.Verifier {
	blob, parts := once(vkey, keys), strings.SplitN(vkey, "+", 3)
	if blob[0] != 4 {
		stop("--witness: not a cosignature key: " + vkey)
	}
	sum := sha256.Sum256([]byte(parts[0] + "\n" + string(blob)))
	id := binary.BigEndian.Uint32(sum[:])
	if fmt.Sprintf("%08x", id) != parts[1] {
		stop("--witness: another id than name and key give: " + vkey)
	}
	return cosigner{parts[0], id, ed25519.PublicKey(blob[1:])}
}

// once gives type and key of a vkey, and refuses a key that was there before under whatever name: a
// cosignature does not bind the name.
func once(vkey string, keys map[string]bool) []byte {
	parts := strings.SplitN(vkey, "+", 3)
	blob, err := base64.StdEncoding.Strict().DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 3 || len(blob) != 33 || keys[string(blob[1:])] {
		stop("not a vkey of Ed25519, or the same key twice: " + vkey)
	}
	keys[string(blob[1:])] = true
	return blob
}

func open(path, file string, t trust) tlog.Tree { return checkpoint(file, read(path, file), t) }

// checkpoint verifies a signed checkpoint and returns what it says.
func checkpoint(file string, data []byte, t trust) tlog.Tree {
	// Only to know whose signatures are asked for; what is believed is the text that these are over.
	claimed := strings.SplitN(string(data), "\n", 4)
	if len(claimed) < 4 {
		refuse(file, "not origin, size and root")
	}
	at, size := 0, number(file, claimed[1])
	for i, key := range t.log {
		if key.from <= size {
			at = i
		}
	}
	wanted := t.log[at : at+1]
	if at > 0 && t.log[at].from == size {
		wanted = t.log[at-1 : at+1]
	}
	known := append([]note.Verifier{}, t.witnesses...)
	for _, key := range wanted {
		known = append(known, key)
	}
	n, err := note.Open(data, note.VerifierList(known...))
	check(file, err)
	// The library takes other spellings of base64, and looks at a key's first signature alone.
	all := append(append([]note.Signature{}, n.Sigs...), n.UnverifiedSigs...)
	if bytes.Count(data[len(n.Text):], []byte("\n")) != 1+len(all) {
		refuse(file, "a signature twice")
	}
	for _, s := range all {
		blob, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
		if err != nil || base64.StdEncoding.EncodeToString(blob) != s.Base64 {
			refuse(file, "a signature in another spelling")
		}
	}
	cosigned, signed := 0, 0
	for _, s := range n.Sigs {
		own := false
		for _, key := range wanted {
			own = own || s.Name == key.Name() && s.Hash == key.KeyHash()
		}
		if own {
			signed++
		} else {
			cosigned++
		}
	}
	if signed != len(wanted) {
		refuse(file, "not signed by the log")
	}
	if cosigned < t.quorum {
		refuse(file, fmt.Sprintf("cosigned by %d of %d witnesses", cosigned, t.quorum))
	}
	lines := strings.Split(strings.TrimSuffix(n.Text, "\n"), "\n")
	for _, line := range lines {
		if line == "" {
			refuse(file, "an empty line in the checkpoint")
		}
	}
	if len(lines) < 3 || lines[0] != wanted[0].Name() {
		refuse(file, "not origin, size and root of the log of this key")
	}
	return tlog.Tree{N: number(file, lines[1]), Hash: hashes(file, lines[2])[0]}
}

// folder checks everything in a log's folder. Cosignatures are in its checkpoint, or apart on an older one.
func folder(dir string, t trust, former string) tlog.Tree {
	var formers []tlog.Tree
	t.log, formers = follow(dir, t.log)
	rotations := int64(len(formers))
	own, apart := t, filepath.Join(dir, "checkpoint.cosigned")
	if _, err := os.Lstat(apart); err == nil {
		formers = append(formers, open(apart, "checkpoint.cosigned", t))
		own.quorum = 0
	}
	tree := open(filepath.Join(dir, "checkpoint"), "checkpoint", own)
	if former != "" {
		formers = append(formers, open(former, former, trust{log: t.log}))
	}
	for _, old := range formers {
		if old.N > tree.N {
			refuse("checkpoint", fmt.Sprintf("%d entries, %d before: put back", tree.N, old.N))
		}
	}
	walk(dir, tree.N, rotations)
	if tree.N == 0 {
		for _, empty := range append(formers, tree) {
			if empty.Hash != sha256.Sum256(nil) {
				refuse("checkpoint", "not the root of the empty tree")
			}
		}
		return tree
	}
	source := tlog.TileHashReader(tree, reader{dir})
	// The hashes at the right edge give the signed root.
	_, err := tlog.TreeHash(tree.N, source)
	check("tile", err)
	// Every full tile gives its hash in the tile above. TileHashReader alone does not see to that: it
	// begins its comparison with parents behind as many tiles as there are hashes at the right edge,
	// also where several of these are in one tile, and so leaves tiles out.
	for level := 7; level >= 0; level-- {
		full := tree.N >> (8 * (level + 1))
		var parent []tlog.Hash
		for n := int64(0); n < full; n++ {
			if n%256 == 0 {
				_, parent = tile(dir, level+1, n/256, full)
			}
			file, own := tile(dir, level, n, full<<8)
			top, err := tlog.TreeHash(256, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
				return stored(own, indexes), nil
			}))
			check(file, err)
			if top != parent[n%256] {
				refuse(file, "not what the tile above says")
			}
		}
	}
	var gone, minimum int64
	for n := int64(0); n*256 < tree.N; n++ {
		name, leaves := tile(dir, 0, n, tree.N)
		file := strings.Replace(name, "tile/0/", "tile/entries/", 1)
		_, err := os.Lstat(filepath.Join(dir, file))
		if gone == n*256 && len(leaves) == 256 && os.IsNotExist(err) {
			// Whether a record allows it is seen when all are read; its hashes were checked above.
			gone += 256
			continue
		}
		for i, entry := range entries(file, read(filepath.Join(dir, file), file), len(leaves)) {
			if tlog.RecordHash(entry) != leaves[i] {
				refuse(file, fmt.Sprintf("entry %d is not what %s says", n*256+int64(i), name))
			}
			at := n*256 + int64(i)
			if keys := named(entry); keys.Type == "key_rotation" && !replaced(t.log, at) {
				refuse(fmt.Sprintf("rotation/%d", rotations), fmt.Sprintf("missing, see entry %d", at))
			}
			if allows := allowed(entry, n*256+int64(i)); allows > minimum {
				minimum = allows
			}
		}
	}
	if gone > minimum {
		refuse(data(minimum/256), "missing")
	}
	for _, old := range formers {
		if old.N == 0 {
			if old.Hash != sha256.Sum256(nil) {
				refuse("checkpoint", "the former one has not the root of the empty tree")
			}
			continue
		}
		p, err := tlog.ProveTree(tree.N, old.N, source)
		check("tile", err)
		check("checkpoint", tlog.CheckTree(p, tree.N, tree.Hash, old.N, old.Hash))
	}
	return tree
}

// rotation is what an entry says about the log's key.
type rotation struct {
	Type, Old, New string
}

func named(entry []byte) rotation {
	var r rotation
	if err := json.Unmarshal(entry, &r); err != nil {
		return rotation{}
	}
	return r
}

// replaced says whether the key changes with this entry.
func replaced(keys []signer, index int64) bool {
	for _, key := range keys {
		if key.from == index+1 {
			return true
		}
	}
	return false
}

// follow gives the keys of the log in their order, as the proofs in its folder tell, and the trees under which each was
// replaced. The key that is known must be one of them.
func follow(dir string, known []signer) ([]signer, []tlog.Tree) {
	var keys []signer
	var trees []tlog.Tree
	for {
		file := fmt.Sprintf("rotation/%d", len(trees))
		path := filepath.Join(dir, file)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			break
		}
		p := parse(file, read(path, file))
		r := named(p.extra)
		old, err := note.NewVerifier(r.Old)
		check(file, err)
		next, err := note.NewVerifier(r.New)
		check(file, err)
		switch {
		case r.Type != "key_rotation":
			refuse(file, "its entry does not name two keys")
		case len(keys) == 0:
			keys = append(keys, signer{old, r.Old, 0})
		case keys[len(keys)-1].vkey != r.Old || keys[len(keys)-1].from > p.index:
			refuse(file, "does not follow from the one before it")
		}
		keys = append(keys, signer{next, r.New, p.index + 1})
		tree := p.check(file, p.extra, trust{log: keys})
		if tree.N != p.index+1 {
			refuse(file, "the entry is not the last one")
		}
		trees = append(trees, tree)
	}
	if len(trees) == 0 {
		return known, nil
	}
	for _, key := range keys {
		if key.vkey == known[0].vkey {
			return keys, trees
		}
	}
	refuse("rotation/0", "the key is none of those that followed each other")
	return nil, nil
}

// allowed says below which number entries may be missing, as a record of pruning does.
func allowed(entry []byte, index int64) int64 {
	var record struct {
		Type    string `json:"type"`
		Minimum int64  `json:"minimum"`
	}
	err := json.Unmarshal(entry, &record)
	if err != nil || record.Type != "prune" || record.Minimum%256 != 0 || record.Minimum > index {
		return 0
	}
	return record.Minimum
}

// data is where a full bundle is.
func data(n int64) string {
	return name(tlog.Tile{H: 8, L: -1, N: n, W: 256})
}

// stored gives hashes by their stored index in a tree over the hashes of one tile.
func stored(leaves []tlog.Hash, indexes []int64) []tlog.Hash {
	var out []tlog.Hash
	for _, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		part := append([]tlog.Hash{}, leaves[n<<level:(n+1)<<level]...)
		for len(part) > 1 {
			for i := 0; i < len(part); i += 2 {
				part[i/2] = tlog.NodeHash(part[i], part[i+1])
			}
			part = part[:len(part)/2]
		}
		out = append(out, part[0])
	}
	return out
}

// reader reads the tiles of the log for the tlog package, which checks them against the root.
type reader struct{ dir string }

func (r reader) Height() int { return 8 }

func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, t := range tiles {
		out = append(out, read(filepath.Join(r.dir, name(t)), name(t)))
	}
	return out, nil
}

// name is where tlog-tiles has a tile: Go writes the height into it, and "data" for entries.
func name(t tlog.Tile) string {
	path := strings.Replace(t.Path(), "tile/8/", "tile/", 1)
	return strings.Replace(path, "tile/data/", "tile/entries/", 1)
}

// tile reads tile n of a level that has so many hashes.
func tile(dir string, level int, n, items int64) (string, []tlog.Hash) {
	t := tlog.Tile{H: 8, L: level, N: n, W: width(items, n)}
	file := name(t)
	data := read(filepath.Join(dir, file), file)
	if len(data) != t.W*tlog.HashSize {
		refuse(file, "not as long as its name says")
	}
	out := make([]tlog.Hash, t.W)
	for i := range out {
		copy(out[i][:], data[i*tlog.HashSize:])
	}
	return file, out
}

// width is how many items tile n has, of so many in all.
func width(items, n int64) int {
	switch left := items - n*256; {
	case n > items/256 || left < 0:
		return 0
	case left > 256:
		return 256
	default:
		return int(left)
	}
}

// entries splits a bundle, which must have exactly so many.
func entries(file string, data []byte, count int) [][]byte {
	var out [][]byte
	for len(out) < count {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			refuse(file, fmt.Sprintf("cut after %d entries of %d", len(out), count))
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		out, data = append(out, data[2:end]), data[end:]
	}
	if len(data) > 0 {
		refuse(file, fmt.Sprintf("%d bytes after the last entry", len(data)))
	}
	return out
}

// walk refuses links, devices and files that a log of that size does not have.
func walk(dir string, size, rotations int64) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		file, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			refuse(file, "not a regular file")
		}
		switch file {
		case "checkpoint", "checkpoint.cosigned", "lock", "journal":
			return nil
		}
		if n := strings.TrimPrefix(file, "rotation/"); n != file && number(file, n) < rotations {
			return nil
		}
		tall := strings.Replace(strings.Replace(file, "tile/entries/", "tile/data/", 1), "tile/", "tile/8/", 1)
		t, err := tlog.ParseTilePath(tall)
		if err != nil || name(t) != file || t.L > 7 {
			refuse(file, "no file of a log")
		}
		items, level := size, t.L
		if level > 0 {
			items = size >> (8 * level)
		}
		there := width(items, t.N)
		if t.W > there {
			refuse(file, fmt.Sprintf("beyond the %d entries that are signed", size))
		}
		if t.W < there {
			data := read(path, file)
			whole := name(tlog.Tile{H: 8, L: t.L, N: t.N, W: there})
			if level < 0 {
				entries(file, data, t.W)
			} else if len(data) != t.W*tlog.HashSize {
				refuse(file, "not as long as its name says")
			}
			if !bytes.HasPrefix(read(filepath.Join(dir, whole), whole), data) {
				refuse(file, "not the beginning of "+whole)
			}
		}
		return nil
	})
	if err != nil {
		stop(err.Error())
	}
}

// proof checks an offline proof of one entry, c2sp.org/tlog-proof@v1.
func proof(file string, entry []byte, t trust) tlog.Tree {
	return parse(file, read(file, file)).check(file, entry, t)
}

// parts is what a proof has.
type parts struct {
	extra      []byte
	index      int64
	hashes     []tlog.Hash
	checkpoint []byte
}

func parse(file string, bytes []byte) parts {
	data := string(bytes)
	split := strings.Index(data, "\n\n")
	if split < 0 || !strings.HasPrefix(data, "c2sp.org/tlog-proof@v1\n") {
		refuse(file, "not a tlog-proof")
	}
	lines := strings.Split(data[:split], "\n")[1:]
	var p parts
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		extra := strings.TrimPrefix(lines[0], "extra ")
		blob, err := base64.StdEncoding.Strict().DecodeString(extra)
		if err != nil || base64.StdEncoding.EncodeToString(blob) != extra {
			refuse(file, "extra in another spelling")
		}
		p.extra = blob
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		refuse(file, "no index")
	}
	p.index = number(file, strings.TrimPrefix(lines[0], "index "))
	p.hashes = hashes(file, strings.Join(lines[1:], "\n"))
	p.checkpoint = []byte(data[split+2:])
	return p
}

func (p parts) check(file string, entry []byte, t trust) tlog.Tree {
	tree := checkpoint(file, p.checkpoint, t)
	if p.index >= tree.N {
		refuse(file, "an index beyond the log's size")
	}
	check(file, tlog.CheckRecord(p.hashes, tree.N, tree.Hash, p.index, tlog.RecordHash(entry)))
	return tree
}

// number reads a decimal number without sign or leading zeros.
func number(file, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		refuse(file, "not a number in its one spelling: "+strconv.Quote(text))
	}
	return n
}

// hashes reads lines of 32 bytes in base64.
func hashes(file, text string) []tlog.Hash {
	out := []tlog.Hash{}
	if text == "" {
		return out
	}
	for _, line := range strings.Split(text, "\n") {
		data, err := base64.StdEncoding.Strict().DecodeString(line)
		var h tlog.Hash
		if err != nil || copy(h[:], data) != 32 || len(data) != 32 || h.String() != line {
			refuse(file, "not a hash in its one spelling: "+strconv.Quote(line))
		}
		out = append(out, h)
	}
	return out
}

// read reads a regular file, which is called file in a refusal.
func read(path, file string) []byte {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		refuse(file, "missing")
	case err != nil:
		stop(err.Error())
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		refuse(file, "not a regular file, or longer than any of a log")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		stop(err.Error())
	}
	return data
}

func check(file string, err error) {
	if err != nil {
		refuse(file, err.Error())
	}
}

func refuse(file, what string) {
	fmt.Fprintf(os.Stderr, "refused: %s: %s\n", strings.Trim(strconv.Quote(file), `"`), what)
	os.Exit(1)
}

func stop(what string) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(2)
}
