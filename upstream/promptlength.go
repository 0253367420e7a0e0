package upstream

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

type layout uint8

const (
	// asText prints strings as their contents.
	asText layout = iota
	// asJSON prints strings as JSON again, with the escapes that it needs.
	asJSON
	// asLines prints JSON with every member on a line of its own, indented by four
	// spaces per level, as the templates of Llama print tools, and with the special
	// characters of HTML escaped, as Go and minijinja do.
	asLines
)

// contentForm returns how prompts print messages; toolForm, how they print tools.
func (p *Preset) contentForm() layout {
	if p.OwnModels && p.Dialect != Cohere && p.Dialect != Mistral {
		return asText
	}
	return asJSON // templates of Llama and Mistral print tool results so, and Cohere's print documents so
}

func (p *Preset) toolForm() layout {
	if p.OwnModels {
		return asJSON
	}
	return asLines
}

// ServerInput returns how many tokens of a prompt the request does not show. If a
// request has no system prompt, templates of open models begin with one of their own,
// of up to some 700 tokens (Command A's); Mistral Small 3's in vLLM has 192.
func (p *Preset) ServerInput() int64 {
	switch {
	case p.InputExtra != 0:
		return max(p.InputExtra, 0)
	case p.OwnModels:
		return 128 // in case the address is that of another server
	}
	return 1024
}

// promptLength returns the most tokens of text in the value at the beginning of valid
// JSON, and the length of that value in b. It counts one token per byte of the prompt,
// which is not written as the request is: it has the character that an escape stands
// for, no space between values except one after each comma and colon (Python's json
// prints those), numbers at the greatest length at which any language prints them, and
// text as long as it grows in Unicode's forms NFC and NFKC. It takes one pass, and
// allocates nothing. It counts pictures and files as text: [content] deducts them.
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

// line returns the tokens of a new line at a depth. Vocabularies of models that know
// tools have a token for four spaces, whatever their other tokens; the last three
// spaces may be single tokens.
func (f layout) line(depth int64) int64 {
	if f != asLines {
		return 0
	}
	return max(depth, 0) + 4 // negative in invalid JSON
}

// longestNumber is the greatest length at which 64-bit floating point numbers are
// printed.
const longestNumber = 24

// literalLength is promptLength of a number, true, false or null.
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

// stringLength is promptLength of the string at the beginning of b, including its
// quotes.
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

// shortEnd returns the length of the string at the beginning of b if it is shorter
// than [notedString] and every byte of it stands for itself; otherwise 0.
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

// plain reports whether eight bytes are ASCII without a quote or a backslash.
func plain(w uint64) bool { return w&0x8080808080808080 == 0 && noMark(w) }

// runeLength returns the printed length of a character that was written as an escape.
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

// unescape reads the escape at the beginning of b. Half of a surrogate pair becomes
// what readers substitute for it.
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

// reprinted returns how much the text in a string may grow if a template reads it as
// JSON, such as the arguments of a call, and prints it in its own way.
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

// growing computes how many bytes longer text becomes when a tokenizer converts it to
// Unicode's form NFC first, as those of Qwen and Cohere do, or to NFKC, as
// sentencepiece does by default. Few characters grow: a musical note becomes three
// characters of four bytes, U+FDFA becomes eighteen characters.
type growing struct {
	pages  *[growthPages]*[256]byte
	before bool // the last character may decompose if a mark follows
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

// special handles a character that grows, that is a mark, or that decomposes.
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
	growthPages = 0x200 // pages of 256 characters; characters above these do not grow
	growthMask  = 0x3f
	isMark      = 0x40
	comesApart  = 0x80
	// markGrowth is the most by which an accented letter grows when another mark
	// comes between the letter and its accent.
	markGrowth = 3
)

// growthTable has a byte for each character of those pages that contain one that
// grows.
var growthTable = sync.OnceValue(func() *[growthPages]*[256]byte {
	table := new([growthPages]*[256]byte)
	for page := range table {
		classes := new([256]byte)
		some := false
		for i := range classes {
			r := rune(page<<8 | i)
			if r < utf8.RuneSelf || r >= 0xac00 && r <= 0xdfff { // Hangul recombines
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
