package upstream

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"unicode/utf8"
)

// A digest stands for a text that is not kept: half of a SHA-256 that begins with a
// secret of this process. Clients choose what is hashed, so it must be impossible to
// find two texts with the same digest; a 64-bit hash would not ensure that.
type digest [16]byte

type secret struct {
	start [sha256.Size]byte
	gcm   cipher.AEAD // nil where FIPS 140 forbids it
}

func newSecret() *secret {
	s := new(secret)
	_, _ = rand.Read(s.start[:]) // Read never fails
	var key [32]byte
	_, _ = rand.Read(key[:])
	if block, err := aes.NewCipher(key[:]); err == nil {
		s.gcm, _ = cipher.NewGCM(block) // only FIPS 140 refuses it; hashing is slower then
	}
	return s
}

// These marks precede parts of the hashed input. UTF-8 never contains these bytes, so
// two different JSON values are never encoded alike.
const (
	markList byte = 0xfa + iota
	markListEnd
	markField
)

// digester hashes JSON values by their meaning: however strings are escaped and
// whatever separates them, it hashes the shortest form of the JSON, which is how most
// clients write it. Cache marks are left out, because agents move them with every
// request.
//
// SHA-256 reads some 1.5 GB a second where processors support it, and 0.4 elsewhere,
// and one body is hashed up to several prefixes. So SHA-256 is given a tag of each
// block instead of the block. The tag is GMAC's under a secret key, always with the
// same nonce: without the key, two blocks with the same tag are found only by chance,
// with odds of 1 in 2^120, as long as the tags are never shown.
type digester struct {
	secret *secret
	state  [sha256.Size]byte // covers all blocks before buf
	tag    [16]byte
	buf    []byte // bytes that are not hashed yet
	left   int64  // the most tokens that were left out
	// thinks says that there may be thoughts of a model, which vendors leave out of
	// some requests but not of others.
	thinks bool

	room [perKeyPrefixes]prefix // scratch space for Memory.Recall: some kilobytes that need not be cleared
}

var spareDigesters = sync.Pool{New: func() any { return &digester{buf: make([]byte, 0, 4096)} }}

func (d *digester) begin(s *secret) {
	d.secret, d.state = s, s.start
	d.buf = d.buf[:0]
}

// digest returns the digest of everything since begin.
func (d *digester) digest() digest {
	sum := d.next(1)
	return digest(sum[:len(digest{})])
}

// next returns the state after the block in buf, or a value derived in the same way.
func (d *digester) next(kind byte) [sha256.Size]byte {
	if d.secret.gcm != nil {
		var nonce [12]byte
		d.secret.gcm.Seal(d.tag[:0], nonce[:], nil, d.buf)
	} else {
		sha := sha256.New()
		sha.Write(d.secret.start[:])
		sha.Write(d.buf)
		d.tag = [16]byte(sha.Sum(nil))
	}
	var in [sha256.Size + 16 + 1]byte
	copy(in[:], d.state[:])
	copy(in[sha256.Size:], d.tag[:])
	in[len(in)-1] = kind
	return sha256.Sum256(in[:])
}

func (d *digester) put(b []byte) {
	for {
		n := copy(d.buf[len(d.buf):cap(d.buf)], b)
		d.buf = d.buf[:len(d.buf)+n]
		if b = b[n:]; len(b) == 0 {
			return
		}
		d.state = d.next(0)
		d.buf = d.buf[:0]
	}
}

func (d *digester) mark(m byte) {
	if len(d.buf) == cap(d.buf) {
		d.state = d.next(0)
		d.buf = d.buf[:0]
	}
	d.buf = append(d.buf, m)
}

// field hashes a string and its length so that no JSON value can be mistaken for it:
// a header or a query may hold any bytes, including marks.
func (d *digester) field(s string) {
	d.mark(markField)
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(s)))
	d.put(length[:])
	d.put([]byte(s))
}

// outlined hashes a value that is a part of an outline's text.
func (d *digester) outlined(value []byte, o *outline) {
	if o.canonical(value) {
		d.put(value)
		return
	}
	d.value(value)
}

// value hashes the value at the beginning of valid JSON.
func (d *digester) value(b []byte) {
	n, depth := 0, 0
	comma, first := false, false // a comma came; nothing came before in this object or list
	for n < len(b) {
		switch c := b[n]; c {
		case ' ', '\t', '\r', '\n':
			n++
			continue
		case ',':
			comma = true
			n++
			continue
		case ':':
			d.mark(c)
			n++
			continue
		case '}', ']':
			comma, first = false, false
			depth--
			n++
			d.mark(c)
		default:
			if c == '"' {
				if m := d.cacheMark(b[n:], depth); m > 0 {
					n += m
					continue
				}
			}
			if comma && !first {
				d.mark(',')
			}
			comma, first = false, false
			switch c {
			case '{', '[':
				depth++
				n++
				d.mark(c)
				first = true
			case '"':
				n += d.string(b[n:])
			default:
				m := skipValue(b[n:])
				d.put(b[n : n+m])
				n += m
			}
		}
		if depth == 0 {
			return
		}
	}
}

// string hashes a string as JSON writes it with the fewest escapes, which is how
// nearly all are written. Half of a surrogate pair, which UTF-8 cannot express, stays
// an escape.
func (d *digester) string(b []byte) int {
	from, i := 0, 1
	for {
		i += toMark(b[i:])
		switch {
		case b[i] == '"':
			d.put(b[from : i+1])
			d.thinks = d.thinks || mayThink(b[1:i])
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

// mayThink reports whether a name or a word suggests that there are thoughts. It may
// be wrong.
func mayThink(s []byte) bool {
	switch string(s) {
	case "thinking", "redacted_thinking", "reasoning", "reasoning_content", "reasoning_details", "thought", "thoughtSignature", "thought_signature":
		return true
	}
	return false
}

// meansMore reports whether a digester has to look at a string even though it is
// written in the shortest form.
func meansMore(s []byte) bool {
	const longest = len("prompt_cache_breakpoint")
	return len(s) <= longest && (mayThink(s) || string(s) == "cache_control" || string(s) == "prompt_cache_breakpoint")
}

// shortEscapes are the characters that have an escape of one letter, and those escapes.
const shortEscapes = `""\\` + "\bb\ff\nn\rr\tt"

// escaped hashes a character that was written as \u or with a needless escape.
func (d *digester) escaped(r rune, as []byte) {
	var room [8]byte
	short := strings.IndexRune(shortEscapes, r)
	half := r == utf8.RuneError && !bytes.EqualFold(as, []byte(`\ufffd`))
	switch {
	case short >= 0 && short%2 == 0:
		d.put(append(room[:0], '\\', shortEscapes[short+1]))
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

// cacheMark returns the length of a member at the beginning of b that says only that
// a cache may begin or end there, and 0 where there is none. The mark is left out of
// the digest and counted at its length and depth, since a template might print it.
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
		return 0 // a string with that name's text
	}
	from := n + spaces(b[n:])
	// Nothing beyond this length is looked at: marks may be nested, and each would be
	// searched to its end.
	const longest = 64
	size := skipValue(b[from:min(len(b), from+longest+1)])
	value := b[from : from+size]
	if value[0] != '{' || len(value) > longest {
		return 0
	}
	for _, value := range rawObject(value).members {
		if value[0] != '"' || bytes.ContainsAny(value, `\:/.`) {
			return 0
		}
	}
	_, name := stringLength(b, asLines, nil)
	d.leaveOut(name, value, depth)
	return from + size
}

// leaveOut counts a value that is left out, and the name before it, in their longest
// form.
func (d *digester) leaveOut(name int64, value []byte, depth int) {
	_, tokens := promptLength(value, asLines, nil)
	lines := int64(1)
	for _, c := range value {
		if strings.IndexByte("{}[],", c) >= 0 {
			lines++
		}
	}
	tokens += name + 8 + lines*int64(depth+1) // what surrounds it
	d.left += tokens + tokens/10 + 1
}
