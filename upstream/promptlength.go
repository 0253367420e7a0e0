package upstream

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// layout is how a prompt shows a JSON value.
type layout uint8

const (
	// asText shows strings as what they say.
	asText layout = iota
	// asJSON prints them as JSON again, with the escapes that it needs.
	asJSON
	// asLines prints as JSON with every member on a line of its own, indented by
	// four spaces a level, as the templates of Llama do with tools, and with
	// what has a meaning in HTML escaped, as Go and minijinja do.
	asLines
)

// contentForm is how prompts show what was said, and toolForm how they show tools.
func (p *Preset) contentForm() layout {
	if p.OwnModels && p.Dialect != Cohere && p.Dialect != Mistral {
		return asText
	}
	return asJSON // Llama's templates print a tool's answer so, and Mistral's, and Cohere's documents
}

func (p *Preset) toolForm() layout {
	if p.OwnModels {
		return asJSON
	}
	return asLines
}

// ServerInput is how many tokens are added to a prompt behind the request's back. The system
// prompts that templates of open models begin with when the request has none are
// up to some 700 tokens (Command A's), and 192 for Mistral Small 3 in vLLM's.
func (p *Preset) ServerInput() int64 {
	switch {
	case p.InputExtra != 0:
		return max(p.InputExtra, 0)
	case p.OwnModels:
		return 128 // for all that is behind their address, should that be another's
	}
	return 1024
}

// promptLength is at most how many tokens of text the value is that valid JSON
// begins with, and the length of that value in b. It counts a token a byte, of
// what a prompt holds and not of how the request is written: the string that an
// escape stands for, no space between values, one after each comma and colon
// (Python's json prints those), numbers as long as any language prints them, and
// what Unicode's forms NFC and NFKC make longer. It is one pass, and allocates
// nothing. Pictures and files are text to it: [content] takes them off.
func promptLength(b []byte, f layout, o *outline) (n int, tokens int64) {
	depth := int64(0)
	for n < len(b) {
		switch c := b[n]; c {
		case '"':
			m, size := stringLength(b[n:], f, o)
			n, tokens = n+m, tokens+size
		case '{', '[':
			depth++
			n, tokens = n+1, tokens+1+f.line(depth)
		case '}', ']':
			depth--
			n, tokens = n+1, tokens+1+f.line(depth)
		case ',':
			n, tokens = n+1, tokens+2+f.line(depth)
			continue
		case ':':
			n, tokens = n+1, tokens+2
			continue
		case ' ', '\t', '\r', '\n':
			n++
			continue
		default:
			m, size := literalLength(b[n:])
			n, tokens = n+m, tokens+size
		}
		if depth == 0 {
			break
		}
	}
	return n, tokens
}

// line is what a new line costs at a depth. Vocabularies of models that know
// tools have a token for four spaces, whatever else they have; the last three may
// be single ones.
func (f layout) line(depth int64) int64 {
	if f != asLines {
		return 0
	}
	return max(depth, 0) + 4 // below 0 in what is no JSON
}

// longestNumber is how long 64-bit floating point numbers are printed, at most.
const longestNumber = 24

// literalLength is that of a number, true, false or null.
func literalLength(b []byte) (n int, tokens int64) {
	exponent := false
	for n < len(b) {
		switch b[n] {
		case ' ', '\t', '\r', '\n', ',', ':', ']', '}':
			return n, literalTokens(n, exponent)
		case 'e', 'E':
			exponent = b[0] != 't' && b[0] != 'f'
		}
		n++
	}
	return n, literalTokens(n, exponent)
}

func literalTokens(n int, exponent bool) int64 {
	if exponent {
		n = max(n, longestNumber) // 1e15 becomes 1000000000000000.0
	}
	return int64(n)
}

// stringLength is promptLength of the string that b begins with, with its quotes.
func stringLength(b []byte, f layout, o *outline) (n int, tokens int64) {
	if f != asLines {
		if n := shortEnd(b); n > 0 {
			return n, int64(n)
		}
		if w := o.find(b); w != nil {
			tokens = int64(w.tokens)
			if f == asJSON {
				tokens += int64(w.printed)
			}
			return int(w.length), tokens
		}
	}
	n, tokens = 1, 2
	var growth growing
	for n < len(b) {
		c := b[n]
		switch {
		case c >= utf8.RuneSelf:
			r, m := utf8.RuneError, 1
			switch {
			case c < 0xe0 && n+1 < len(b):
				r, m = rune(c&0x1f)<<6|rune(b[n+1]&0x3f), 2
			case c < 0xf0 && n+2 < len(b):
				r, m = rune(c&0x0f)<<12|rune(b[n+1]&0x3f)<<6|rune(b[n+2]&0x3f), 3
			default:
				r, m = utf8.DecodeRune(b[n:])
			}
			n, tokens = n+m, tokens+int64(m)+growth.of(r)
			continue
		case c == '"':
			return n + 1, tokens
		case c == '\\':
			r, m := unescape(b[n:])
			n, tokens = n+m, tokens+f.runeLength(r)+growth.of(r)
			continue
		case f == asLines && (c == '<' || c == '>' || c == '&' || c == '\''):
			tokens += 5
		}
		growth.before = false
		n++
		tokens++
		if f == asLines {
			continue
		}
		for n+8 <= len(b) && plain(binary.LittleEndian.Uint64(b[n:])) {
			n += 8
			tokens += 8
		}
	}
	return n, tokens
}

// shortEnd is the length of the string that b begins with, where it is shorter than
// [notedString] and every byte of it stands for itself; else 0.
func shortEnd(b []byte) int {
	for i := 1; i < notedString-1 && i+8 <= len(b); i += 8 {
		if m := specials(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			if i += bits.TrailingZeros64(m) / 8; b[i] == '"' {
				return i + 1
			}
			break
		}
	}
	return 0
}

// plain reports whether none of eight bytes is a quote, a backslash, or not
// ASCII.
func plain(w uint64) bool { return w&0x8080808080808080 == 0 && noMark(w) }

// runeLength is how long a character is that stood as an escape.
func (f layout) runeLength(r rune) int64 {
	switch {
	case f == asText || r >= utf8.RuneSelf:
		return int64(utf8.RuneLen(r))
	case r == '"' || r == '\\' || r == '\n' || r == '\r' || r == '\t' || r == '\b' || r == '\f':
		return 2
	case r < ' ' || f == asLines && (r == '<' || r == '>' || r == '&' || r == '\''):
		return 6
	}
	return 1
}

// unescape reads the escape that b begins with. Half a surrogate pair is what
// readers put for it.
func unescape(b []byte) (r rune, n int) {
	if len(b) < 2 {
		return utf8.RuneError, len(b)
	}
	switch b[1] {
	case 'n':
		return '\n', 2
	case 't':
		return '\t', 2
	case 'r':
		return '\r', 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'u':
		r, ok := hex(b)
		if !ok {
			return utf8.RuneError, 2
		}
		if r < 0xd800 || r > 0xdfff {
			return r, 6
		}
		if low, ok := hex(b[6:]); ok && r < 0xdc00 && low >= 0xdc00 && low <= 0xdfff {
			return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000, 12
		}
		return utf8.RuneError, 6
	}
	return rune(b[1]), 2
}

// hex reads \uXXXX.
func hex(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// reprinted is by how much the text in a string may grow that a template takes
// for JSON, as the arguments of a call, and prints in its own way.
func reprinted(b []byte) (more int64) {
	for i, c := range b {
		switch c {
		case ',', ':':
			more++
		case 'e', 'E':
			if i > 0 && b[i-1] >= '0' && b[i-1] <= '9' {
				more += longestNumber - 3
			}
		}
	}
	return more
}

// growing is by how many bytes text becomes longer when a tokenizer brings it to
// Unicode's form NFC first, as those of Qwen and Cohere do, or to NFKC, as
// sentencepiece's do unless told otherwise. Few characters do: a note of music
// becomes three of four bytes, U+FDFA eighteen characters.
type growing struct {
	pages  *[growthPages]*[256]byte
	before bool // the last character may come apart when a mark follows
}

func (g *growing) of(r rune) int64 {
	if g.pages == nil {
		g.pages = growthTable()
	}
	class := byte(0)
	if uint32(r) < growthPages<<8 {
		if page := g.pages[r>>8]; page != nil {
			class = page[r&0xff]
		}
	}
	if class == 0 {
		g.before = false
		return 0
	}
	return g.special(class)
}

// special is for a character that grows, that is a mark, or that comes apart.
func (g *growing) special(class byte) int64 {
	more := int64(class & growthMask)
	if class&isMark == 0 {
		g.before = class&comesApart != 0
	} else if g.before {
		more += markGrowth
	}
	return more
}

const (
	growthPages = 0x200 // of 256 characters; those above do not grow
	growthMask  = 0x3f
	isMark      = 0x40
	comesApart  = 0x80
	// markGrowth is the most by which a letter with an accent grows when another
	// mark comes between the two.
	markGrowth = 3
)

// growthTable has a byte for each character of those pages that hold one which
// grows, and none for the rest.
var growthTable = sync.OnceValue(func() *[growthPages]*[256]byte {
	table := new([growthPages]*[256]byte)
	for page := range table {
		classes := new([256]byte)
		some := false
		for i := range classes {
			r := rune(page<<8 | i)
			if r < utf8.RuneSelf || r >= 0xac00 && r <= 0xdfff { // Hangul joins again
				continue
			}
			s := string(r)
			p := norm.NFKC.PropertiesString(s)
			if p.CCC() > 0 {
				classes[i] = isMark
			}
			if len(p.Decomposition()) > 0 {
				classes[i] |= comesApart
				longest := max(len(norm.NFC.String(s)), len(norm.NFKC.String(s)))
				classes[i] |= byte(min(max(longest-len(s), 0), growthMask))
			}
			if r == '\u2028' || r == '\u2029' {
				classes[i] = 3 // Go prints them as escapes
			}
			some = some || classes[i] != 0
		}
		if some {
			table[page] = classes
		}
	}
	return table
})
