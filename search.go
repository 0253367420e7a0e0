package till

import (
	"encoding/base64"
	"html"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/till-proxy/till/token"
)

// needle is one form of a credential while it is searched for.
type needle struct {
	text  token.Secret
	first byte
	fail  []int // by how much of it was found: how much of it that ends with (Knuth, Morris, Pratt)
}

func newNeedle(form token.Secret) needle {
	text := form.Reveal()
	n := needle{form, text[0], make([]int, len(text))}
	for i, k := 1, 0; i < len(text); i++ {
		k = n.next(k, text[i])
		n.fail[i] = k
	}
	return n
}

// next is how much of the needle a text ends with that ended with found of it
// before c.
func (n *needle) next(found int, c byte) int {
	if found == 0 && c != n.first {
		return 0
	}
	text := n.text.Reveal()
	for found > 0 && (found == len(text) || text[found] != c) {
		found = n.fail[found-1]
	}
	if text[found] == c {
		found++
	}
	return found
}

// minSearched is the length, in bytes, from which a credential is searched for
// in answers: a shorter one, such as the "ollama" that local servers are given,
// is no secret and stands in many a text.
const minSearched = 8

// forms lists how a credential can look in an answer that repeats it, once the
// text's own escapes are taken off: as it is, as it was written in a query, and in
// base64, alone or within something longer, such as HTTP Basic.
func forms(credential string) []token.Secret {
	if len(credential) < minSearched {
		return nil
	}
	texts := []string{credential, string(unescaped(nil, credential)), url.QueryEscape(credential), url.PathEscape(credential)}
	for before := range 3 {
		b := append(make([]byte, before), credential...)
		// What depends on the credential alone, and not on what stands around it.
		first, last := (before*8+5)/6, len(b)*8/6
		texts = append(texts, base64.RawStdEncoding.EncodeToString(b)[first:last], base64.RawURLEncoding.EncodeToString(b)[first:last])
	}
	slices.Sort(texts)
	var all []token.Secret
	for _, text := range slices.Compact(texts) {
		if len(text) >= minSearched { // without its escapes it may be shorter
			all = append(all, token.NewSecret(text))
		}
	}
	return all
}

// escapes are the bytes with which begins what unescape takes off.
const escapes = "\\%&\x00"

// shownIn reports whether a text holds the credential, in any form and escape.
func (c *credential) shownIn(text string) bool {
	if len(text) < minSearched {
		return false
	}
	for _, form := range c.forms {
		if strings.Contains(text, form.Reveal()) {
			return true
		}
	}
	if len(c.forms) == 0 || !strings.ContainsAny(text, escapes) {
		return false
	}
	s := newSearch(c)
	return s.finds([]byte(text)) || s.ends()
}

// search looks for a credential in a text that comes in pieces.
type search struct {
	needles []needle
	held    []byte // the end of the text so far, which may be the beginning of the credential
	judged  int    // so much of held was looked at
	passed  int    // bytes of the text before held

	asIs, plain []int // how much of each needle the text ends with, as it is and without escapes
	length      int   // bytes of the text without escapes
	begins      []int // a ring of where the last of those bytes stand in the text as it is
}

func newSearch(c *credential) *search {
	s := &search{needles: make([]needle, len(c.forms)), asIs: make([]int, len(c.forms)), plain: make([]int, len(c.forms))}
	longest := 0
	for i, form := range c.forms {
		s.needles[i] = newNeedle(form)
		longest = max(longest, len(s.needles[i].fail))
	}
	s.begins = make([]int, longest+1)
	return s
}

// finds takes the next piece and reports whether the credential was found in it, or
// in it and what came before.
func (s *search) finds(piece []byte) bool {
	s.held = append(s.held, piece...)
	return s.judge(false)
}

// ends reports the same when the text is over.
func (s *search) ends() bool { return s.judge(true) }

func (s *search) judge(last bool) bool {
	var room [64]byte
	for s.judged < len(s.held) {
		plain, n := unescape(room[:0], s.held[s.judged:], last)
		if n == 0 {
			return false // what follows says what it is
		}
		for _, c := range s.held[s.judged : s.judged+n] {
			if s.found(s.asIs, c) {
				return true
			}
		}
		for _, c := range plain {
			s.begins[s.length%len(s.begins)] = s.passed + s.judged
			s.length++
			if s.found(s.plain, c) {
				return true
			}
		}
		s.judged += n
	}
	return false
}

func (s *search) found(states []int, c byte) bool {
	for i := range s.needles {
		n := &s.needles[i]
		if states[i] = n.next(states[i], c); states[i] == len(n.fail) {
			return true
		}
	}
	return false
}

// harmless is how many bytes of what is held are no part of the credential,
// whatever follows.
func (s *search) harmless() int {
	n := s.judged
	for i := range s.needles {
		n = min(n, s.judged-s.asIs[i])
		if k := s.plain[i]; k > 0 {
			n = min(n, s.begins[(s.length-k)%len(s.begins)]-s.passed)
		}
	}
	return n
}

// pass gives away the first n bytes of what is held.
func (s *search) pass(p []byte, n int) int {
	n = copy(p, s.held[:n])
	s.held = s.held[:copy(s.held, s.held[n:])]
	s.judged -= n
	s.passed += n
	return n
}

// maxNested is how often one character may be escaped. What is longer is nobody's
// escape, and must not let a search hold back ever more.
const maxNested = 16

// unescape takes off the escapes of the one character that text begins with, as
// often as it was escaped (a gateway quotes an error within its own), appends what
// it is, if it is anything, and returns how many bytes of the text it takes; 0 if
// that cannot be said before more of the text is there. They are those of JSON and
// JavaScript, of URLs and of HTML, and the zeros of UTF-16 and UTF-32.
func unescape(dst, text []byte, last bool) (plain []byte, n int) {
	switch text[0] {
	case 0:
		switch n = repeated(text, "\x00", 4); {
		case n == 4:
			return append(dst, 0), n // that many are no character's
		case n == len(text):
			return dst, ended(n, last)
		}
		return dst, n
	case '\\':
		n = repeated(text, `\`, maxNested)
		if n == maxNested {
			return append(dst, '\\'), n
		}
		if n == len(text) {
			return dst, ended(n, last)
		}
		digits := 0
		switch c := text[n]; c {
		case 'u':
			digits = 4
		case 'x':
			digits = 2
		default:
			return append(dst, c), n + 1
		}
		v, read := hexadecimal(text[n+1:], digits)
		switch {
		case read == digits:
			return utf8.AppendRune(dst, v), n + 1 + digits
		case n+1+read == len(text) && !last:
			return dst, 0
		}
		return append(dst, text[n]), n + 1
	case '%':
		n = 1 + repeated(text[1:], "25", maxNested)
		v, read := hexadecimal(text[n:], 2)
		switch {
		case read == 2:
			return append(dst, byte(v)), n + 2
		case n+read == len(text) && !last:
			return dst, 0
		}
		return append(dst, '%'), n
	case '&':
		return entity(dst, text, last)
	}
	return append(dst, text[0]), 1
}

// maxEntity is how long the name of a character in HTML may be, in bytes. The
// longest of those in ASCII has ten.
const maxEntity = 12

// entity reads a character reference of HTML.
func entity(dst, text []byte, last bool) (plain []byte, n int) {
	n = 1 + repeated(text[1:], "amp;", maxNested)
	end := n
	for end < len(text) && end < n+maxEntity && (text[end] == '#' || '0' <= text[end] && text[end] <= '9' || 'a' <= text[end]|0x20 && text[end]|0x20 <= 'z') {
		end++
	}
	if end == len(text) && end < n+maxEntity && !last {
		return dst, 0
	}
	if end < len(text) && text[end] == ';' {
		end++
	}
	name := "&" + string(text[n:end])
	if meant := html.UnescapeString(name); meant != name {
		return append(dst, meant...), end
	}
	return append(dst, '&'), n
}

// ended is n when the text is over, and 0 when more is to come.
func ended(n int, last bool) int {
	if last {
		return n
	}
	return 0
}

// repeated is how many bytes a word takes at the beginning of a text, which may
// stand there so many times.
func repeated(text []byte, word string, times int) (n int) {
	for ; times > 0 && len(text) >= n+len(word) && string(text[n:n+len(word)]) == word; times-- {
		n += len(word)
	}
	return n
}

// hexadecimal reads digits, and returns how many there were.
func hexadecimal(text []byte, digits int) (v rune, read int) {
	for read < digits && read < len(text) {
		c := text[read]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return v, read
		}
		v = v<<4 | rune(c)
		read++
	}
	return v, read
}

// unescaped takes the escapes off a whole text.
func unescaped(dst []byte, text string) []byte {
	for rest := []byte(text); len(rest) > 0; {
		plain, n := unescape(dst, rest, true)
		dst, rest = plain, rest[n:]
	}
	return dst
}

// searched passes a body on while it is searched, and holds back only what may be
// the beginning of the credential.
type searched struct {
	io.Closer
	rest   io.Reader // what was not searched yet
	search *search
	free   int   // bytes of what the search holds that may pass
	err    error // what comes after them
}

func (b *searched) Read(p []byte) (int, error) {
	for b.free == 0 && b.err == nil && len(p) > 0 {
		n, err := b.rest.Read(p)
		b.err = err
		switch {
		case b.search.finds(p[:n]) || err == io.EOF && b.search.ends():
			b.err = errShown // and what is held stays here
		case err == io.EOF:
			b.free = len(b.search.held)
		default:
			b.free = b.search.harmless()
		}
	}
	if b.free == 0 {
		return 0, b.err
	}
	n := b.search.pass(p, b.free)
	b.free -= n
	return n, nil
}
