package upstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"strings"
	"sync"
	"unicode/utf8"
)

// A digest stands for a text that is not kept: half of a SHA-256 that begins
// with a key of this process. Clients choose what is hashed, so nobody may be
// able to find two texts with one digest, which a 64-bit hash would not hold.
type digest [16]byte

// The marks that stand before each part of what is hashed. UTF-8 has no such
// bytes, so two different JSON values are never written alike.
const (
	markObject byte = 0xf8 + iota
	markObjectEnd
	markList
	markListEnd
	markString
	markLiteral
	markField
)

// digester hashes JSON values by what they say: however their strings are
// escaped and whatever stands between them, the same is hashed. Marks of a cache
// are left out, because agents move them with every request.
type digester struct {
	sha  hash.Hash
	sum  [sha256.Size]byte
	buf  []byte // not hashed yet
	left int64  // tokens of what was left out, at most
	// thinks says that there may be thoughts of a model, which vendors leave out
	// of some requests and not of others.
	thinks bool
}

var spareDigesters = sync.Pool{New: func() any { return &digester{sha: sha256.New(), buf: make([]byte, 0, 4096)} }}

// begin forgets what came before.
func (d *digester) begin(key *[sha256.BlockSize]byte) {
	d.sha.Reset()
	d.sha.Write(key[:])
	d.buf = d.buf[:0]
}

// digest is that of all that came since begin.
func (d *digester) digest() digest {
	d.flush()
	return digest(d.sha.Sum(d.sum[:0])[:len(digest{})])
}

func (d *digester) flush() {
	d.sha.Write(d.buf)
	d.buf = d.buf[:0]
}

func (d *digester) put(b []byte) {
	if len(b) > cap(d.buf)-len(d.buf) {
		d.flush()
		if len(b) > cap(d.buf)/4 {
			d.sha.Write(b)
			return
		}
	}
	d.buf = append(d.buf, b...)
}

func (d *digester) mark(m byte) {
	if len(d.buf) == cap(d.buf) {
		d.flush()
	}
	d.buf = append(d.buf, m)
}

// field hashes a word that no JSON value can be taken for, and its length: a header
// or a query may hold any bytes, marks too.
func (d *digester) field(s string) {
	d.mark(markField)
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(s)))
	d.put(length[:])
	for len(s) > 0 {
		n := min(len(s), cap(d.buf)/4)
		if n > cap(d.buf)-len(d.buf) {
			d.flush()
		}
		d.buf = append(d.buf, s[:n]...)
		s = s[n:]
	}
}

// value hashes the value that valid JSON begins with, and returns its length.
func (d *digester) value(b []byte) (n int) {
	depth := 0
	for n < len(b) {
		switch c := b[n]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			n++
			continue
		case '{', '[':
			depth++
			n++
			d.mark(brackets[c])
		case '}', ']':
			depth--
			n++
			d.mark(brackets[c])
		case '"':
			m := d.cacheMark(b[n:], depth)
			if m == 0 {
				m = d.string(b[n:])
			}
			n += m
		default:
			m := skipValue(b[n:])
			d.mark(markLiteral)
			d.put(b[n : n+m])
			n += m
		}
		if depth == 0 {
			break
		}
	}
	return n
}

var brackets = [256]byte{'{': markObject, '}': markObjectEnd, '[': markList, ']': markListEnd}

// string hashes a string as JSON writes it with the fewest escapes, which is how
// nearly all are written. Half of a surrogate pair, which no UTF-8 can say, stays
// an escape.
func (d *digester) string(b []byte) int {
	d.mark(markString)
	from, i := 1, 1
	for {
		i += toMark(b[i:])
		switch {
		case b[i] == '"':
			d.put(b[from:i])
			d.mayThink(b[1:i])
			return i + 1
		case b[i+1] != 'u' && b[i+1] != '/':
			i += 2 // there is no shorter escape
		default:
			d.put(b[from:i])
			r, size := unescape(b[i:])
			d.escaped(r, b[i:i+size])
			i += size
			from = i
		}
	}
}

// mayThink notes what says that there are thoughts, also where it is no such
// thing.
func (d *digester) mayThink(s []byte) {
	switch string(s) {
	case "thinking", "redacted_thinking", "reasoning", "reasoning_content", "reasoning_details", "thought", "thoughtSignature", "thought_signature":
		d.thinks = true
	}
}

// escaped hashes a character that was written as \u or with an escape that it
// does not need.
func (d *digester) escaped(r rune, as []byte) {
	var room [8]byte
	short := ""
	switch r {
	case '"':
		short = `\"`
	case '\\':
		short = `\\`
	case '\b':
		short = `\b`
	case '\f':
		short = `\f`
	case '\n':
		short = `\n`
	case '\r':
		short = `\r`
	case '\t':
		short = `\t`
	}
	half := r == utf8.RuneError && !bytes.EqualFold(as, []byte(`\ufffd`))
	switch {
	case short != "":
		d.put(append(room[:0], short...))
	case half || r < ' ':
		out := append(room[:0], as...)
		for i, c := range out {
			if c >= 'A' && c <= 'F' {
				out[i] = c | 0x20
			}
		}
		d.put(out)
	default:
		d.put(utf8.AppendRune(room[:0], r))
	}
}

// cacheMark is the length of a member at the beginning of b that says no more
// than that a cache may begin or end there, and 0 where there is none. It is left
// out, and counted at its length, so deep as it stands: a template may print it for
// all that is known.
func (d *digester) cacheMark(b []byte, depth int) int {
	n := 0
	if c := b[1]; c != 'c' && c != 'p' {
		return 0
	}
	for _, name := range []string{`"cache_control"`, `"prompt_cache_breakpoint"`} {
		if len(b) > len(name) && string(b[:len(name)]) == name {
			n = len(name)
		}
	}
	if n == 0 {
		return 0
	}
	colon := n + len(b[n:]) - len(bytes.TrimLeft(b[n:], jsonSpace))
	if colon == len(b) || b[colon] != ':' {
		return 0 // a text that is called so
	}
	from := n + spaces(b[n:])
	// No more than that is looked at: marks may stand in marks, and each would be
	// looked through to its end.
	const longest = 64
	size := skipValue(b[from:min(len(b), from+longest+1)])
	value := b[from : from+size]
	if value[0] != '{' || len(value) > longest {
		return 0
	}
	plain := true
	err := rawObject(value).members(func(_ string, value []byte) error {
		plain = plain && value[0] == '"' && !bytes.ContainsAny(value, `\:/.`)
		return nil
	})
	if err != nil || !plain {
		return 0
	}
	_, name := stringLength(b, asLines)
	d.leaveOut(name, value, depth)
	return from + size
}

// leaveOut counts a value that is left out, and the name before it, at its longest.
func (d *digester) leaveOut(name int64, value []byte, depth int) {
	_, tokens := promptLength(value, asLines)
	lines := int64(1)
	for _, c := range value {
		if strings.IndexByte("{}[],", c) >= 0 {
			lines++
		}
	}
	tokens += name + 8 + lines*int64(depth+1) // what stands around it
	d.left += tokens + tokens/10 + 1
}
