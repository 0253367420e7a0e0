package till

import (
	"bytes"
	"encoding/base64"
	"html"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/till-proxy/till/token"
)

// needle is one form of a credential, prepared for the search.
type needle struct {
	text  token.Secret
	first byte
	fail  []int // the failure function of Knuth, Morris and Pratt
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

// next returns how many bytes of the needle a text ends with after c, if it ended with
// found of them before.
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

// minSearched is the length, in bytes, from which a credential is searched for in
// answers: a shorter one, such as the "ollama" that local servers are given, is not
// secret and occurs in many texts.
const minSearched = 8

// forms lists how a credential can look in an answer that repeats it, once the text's
// own escapes are removed: as it is, as it is written in a query, and in base64, alone
// or within something longer, such as HTTP Basic.
func forms(credential string) []token.Secret {
	if len(credential) < minSearched {
		return nil
	}
	texts := []string{credential, string(unescaped(credential)), url.QueryEscape(credential), url.PathEscape(credential)}
	for before := range 3 {
		b := append(make([]byte, before), credential...)
		// Only what depends on the credential alone, and not on its surroundings.
		first, last := (before*8+5)/6, len(b)*8/6
		texts = append(texts, base64.RawStdEncoding.EncodeToString(b)[first:last], base64.RawURLEncoding.EncodeToString(b)[first:last])
	}
	slices.Sort(texts)
	var all []token.Secret
	for _, text := range slices.Compact(texts) {
		if len(text) >= minSearched { // it may be shorter without its escapes
			all = append(all, token.NewSecret(text))
		}
	}
	return all
}

func (c *credential) searchable() bool { return len(*c.forms.Load()) > 0 }

// escapes are the bytes that an escape can begin with.
const escapes = `\%&`

// shownIn reports whether a text contains the credential, in any form and with any
// escapes.
func (c *credential) shownIn(text string) bool {
	if len(text) < minSearched {
		return false
	}
	all := *c.forms.Load()
	for _, form := range all {
		if strings.Contains(text, form.Reveal()) {
			return true
		}
	}
	if len(all) == 0 || !strings.ContainsAny(text, escapes+"\x00") {
		return false
	}
	s := newSearch(c)
	return s.finds([]byte(text)) || s.ends()
}

// mixed is how many kinds of escapes may be nested, as in an error in JSON that stands
// in a query. maxNested is how often each may be repeated.
const mixed = 2

// search looks for a credential in a text that arrives in pieces.
type search struct {
	needles []needle
	begin   [256]bool // the bytes that a needle or an escape can begin with

	held   []byte // the end of the text so far, which may be the start of the credential
	passed int    // bytes of the text before that

	zeros  int // how many zeros came last
	levels [mixed + 1]level
}

// level is the text without zeros, and with as many kinds of escapes removed as its
// index says.
type level struct {
	trail
	text []byte // the start of an escape that is not complete yet
	at   []int  // the positions of its bytes in the original
}

// trail is how much of each needle a text ends with.
type trail struct {
	found  []int
	length int   // bytes of the text so far
	last   []int // a ring of the positions of the last ones in the original
	begun  bool  // it ends with a part of a needle
}

func newSearch(c *credential) *search {
	all := *c.forms.Load()
	s := &search{needles: make([]needle, len(all))}
	longest := 0
	for i, form := range all {
		s.needles[i] = newNeedle(form)
		longest = max(longest, len(s.needles[i].fail))
		s.begin[s.needles[i].first] = true
	}
	for _, c := range []byte(escapes) {
		s.begin[c] = true
	}
	for i := range s.levels {
		s.levels[i].found, s.levels[i].last = make([]int, len(all)), make([]int, longest+1)
	}
	return s
}

// finds takes the next piece, and reports whether the credential is in it, or begins in
// the text before and ends in it.
func (s *search) finds(piece []byte) bool {
	next := s.passed + len(s.held)
	s.held = append(s.held, piece...)
	for i, c := range piece {
		if c == 0 && s.zeros < 3 {
			s.zeros++ // part of UTF-16 or UTF-32, where no character has more of them
			continue
		}
		s.zeros = 0
		if !s.begin[c] && s.idle() {
			continue
		}
		if s.takes(0, c, next+i) {
			return true
		}
	}
	return false
}

// idle reports whether no part of the text so far can belong to a needle.
func (s *search) idle() bool {
	for i := range s.levels {
		if s.levels[i].begun || len(s.levels[i].text) > 0 {
			return false
		}
	}
	return true
}

// ends reports the same as finds, at the end of the text.
func (s *search) ends() bool {
	for i := range mixed {
		if s.unescapes(i, true) {
			return true
		}
	}
	return false
}

// takes gives a level its next byte, and the levels above what that is without its
// escapes.
func (s *search) takes(i int, c byte, at int) bool {
	l := &s.levels[i]
	switch {
	case l.take(s.needles, c, at):
		return true
	case i == mixed:
		return false
	case len(l.text) == 0 && strings.IndexByte(escapes, c) < 0:
		return s.takes(i+1, c, at)
	}
	l.text, l.at = append(l.text, c), append(l.at, at)
	return s.unescapes(i, false)
}

func (s *search) unescapes(i int, last bool) bool {
	var room [64]byte
	for l := &s.levels[i]; len(l.text) > 0; {
		plain, n := unescape(room[:0], l.text, last)
		if n == 0 {
			return false
		}
		for _, c := range plain {
			if s.takes(i+1, c, l.at[0]) {
				return true
			}
		}
		l.text, l.at = l.text[:copy(l.text, l.text[n:])], l.at[:copy(l.at, l.at[n:])]
	}
	return false
}

// take adds a byte, and reports whether the text now ends with a needle.
func (t *trail) take(needles []needle, c byte, at int) bool {
	t.last[t.length%len(t.last)] = at
	t.length++
	t.begun = false
	for i := range needles {
		k := needles[i].next(t.found[i], c)
		if t.found[i] = k; k == len(needles[i].fail) {
			return true
		}
		t.begun = t.begun || k > 0
	}
	return false
}

// harmless returns how many of the held bytes cannot be part of the credential,
// whatever follows.
func (s *search) harmless() int {
	end := s.passed + len(s.held)
	for i := range s.levels {
		l := &s.levels[i]
		if len(l.at) > 0 {
			end = min(end, l.at[0])
		}
		for _, k := range l.found {
			if k > 0 {
				end = min(end, l.last[(l.length-k)%len(l.last)])
			}
		}
	}
	return end - s.passed
}

// pass moves the first n of the held bytes into p.
func (s *search) pass(p []byte, n int) int {
	n = copy(p, s.held[:n])
	s.held = s.held[:copy(s.held, s.held[n:])]
	s.passed += n
	return n
}

// maxNested is how often one character may be escaped. Nobody escapes more often, and a
// longer escape must not make a search hold back more and more.
const maxNested = 16

// unescape removes all escapes of the one character that text begins with (a gateway
// quotes an error within its own, and so escapes it again). It appends the character,
// if there is one, and returns how many bytes of the text it takes, or 0 if that
// depends on more text. The escapes are those of JSON and JavaScript, of URLs and of
// HTML.
func unescape(dst, text []byte, last bool) (plain []byte, n int) {
	switch text[0] {
	case '\\':
		n = repeated(text, `\`)
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
		n = 1 + repeated(text[1:], "25")
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

// maxEntity is how long the name of a character in HTML may be, in bytes. The longest
// of those in ASCII has ten.
const maxEntity = 12

// entity reads a character reference of HTML.
func entity(dst, text []byte, last bool) (plain []byte, n int) {
	n = 1 + repeated(text[1:], "amp;")
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
	if character := html.UnescapeString(name); character != name {
		return append(dst, character...), end
	}
	return append(dst, '&'), n
}

// ended returns n at the end of the text, and 0 if more follows.
func ended(n int, last bool) int {
	if last {
		return n
	}
	return 0
}

// repeated returns how many bytes the repetitions of a word take up at the beginning of
// a text, up to maxNested of them.
func repeated(text []byte, word string) (n int) {
	for n < maxNested*len(word) && bytes.HasPrefix(text[n:], []byte(word)) {
		n += len(word)
	}
	return n
}

// hexadecimal reads up to that number of digits, and returns how many there were.
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

func unescaped(text string) (plain []byte) {
	for rest, n := []byte(text), 0; len(rest) > 0; rest = rest[n:] {
		plain, n = unescape(plain, rest, true)
	}
	return plain
}

// searched passes a body on while it is searched, and holds back only what may be the
// start of the credential.
type searched struct {
	io.Closer
	rest   io.Reader // not searched yet
	search *search
	free   int   // held bytes that may pass
	err    error // to return after them
}

func (b *searched) Read(p []byte) (int, error) {
	for b.free == 0 && b.err == nil && len(p) > 0 {
		n, err := b.rest.Read(p)
		b.err = err
		switch {
		case b.search.finds(p[:n]) || err == io.EOF && b.search.ends():
			b.err = errShown // the held bytes are never passed on
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
