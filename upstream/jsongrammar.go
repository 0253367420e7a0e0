package upstream

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// This file checks RFC 8259's grammar. encoding/json does the same in a state machine
// that is called for every byte, which was a third of the cost of a large request.

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// maxNesting is how deep objects and lists may be nested, as in encoding/json.
const maxNesting = 10_000

// wellFormed reports whether b is one JSON text with strings in UTF-8. If so, o
// becomes its outline; o may be nil.
func wellFormed(b []byte, o *outline) bool {
	end := o.valueEnd(b, o.blanks(b, 0), 0)
	return end > 0 && o.blanks(b, end) == len(b)
}

// blanks returns the index of the first byte at or after i that is not white space.
func (o *outline) blanks(b []byte, i int) int {
	if i >= len(b) || b[i] > ' ' {
		return i
	}
	o.addRewritten(i)
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// valueEnd returns the end of the value that begins at i, or -1 if no well-formed
// value does.
func (o *outline) valueEnd(b []byte, i, depth int) int {
	if i >= len(b) {
		return -1
	}
	switch c := b[i]; c {
	case '"':
		return o.stringEnd(b, i+1)
	case '{', '[':
		if depth == maxNesting {
			return -1
		}
		return o.membersEnd(b, i, depth+1)
	case 't':
		return wordEnd(b, i, "true")
	case 'f':
		return wordEnd(b, i, "false")
	case 'n':
		return wordEnd(b, i, "null")
	}
	return numberEnd(b, i)
}

// membersEnd returns the end of the object or list that begins at i.
func (o *outline) membersEnd(b []byte, i, depth int) int {
	object, last := b[i] == '{', b[i]+2 // in ASCII the brackets are two apart
	i = o.blanks(b, i+1)
	if i < len(b) && b[i] == last {
		return i + 1
	}
	for {
		name, named := i, 0
		if object {
			if i >= len(b) || b[i] != '"' {
				return -1
			}
			if named = o.stringEnd(b, i+1); named < 0 {
				return -1
			}
			if i = o.blanks(b, named); i >= len(b) || b[i] != ':' {
				return -1
			}
			i = o.blanks(b, i+1)
		}
		value := i
		if i = o.valueEnd(b, i, depth); i < 0 {
			return -1
		}
		if depth <= 2 && o != nil {
			switch {
			case object && depth == 1:
				o.addField(b[name:named], b[value:i])
			case !object && depth == 2:
				o.addElement(i)
			}
		}
		i = o.blanks(b, i)
		switch {
		case i >= len(b):
			return -1
		case b[i] == last:
			return i + 1
		case b[i] != ',':
			return -1
		}
		i = o.blanks(b, i+1)
	}
}

func wordEnd(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

func numberEnd(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	default:
		if i = digitsEnd(b, i); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i] == '.' {
		if i = digitsEnd(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return digitsEnd(b, i)
	}
	return i
}

// digitsEnd returns the end of a run of at least one digit, or -1.
func digitsEnd(b []byte, i int) int {
	from := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}

// stringEnd returns the end of the string whose first character is at i. The outline
// notes its tokens as stringLength counts them.
func (o *outline) stringEnd(b []byte, i int) int {
	from := i - 1
	var growth growing
	var more, printed int64 // how much longer the content is than its written form, and how much longer again as JSON
	odd := false
	for {
		// This loop repeats special, which the compiler does not inline.
		for at := i; ; {
			if at+8 > len(b) {
				at = special(b, at)
			} else if m := specials(binary.LittleEndian.Uint64(b[at:])); m == 0 {
				at += 8
				continue
			} else {
				at += bits.TrailingZeros64(m) / 8
			}
			if at > i {
				i, growth.before = at, false
			}
			break
		}
		if i == len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			i++
			if o != nil {
				o.addString(b[from:i], from, more, printed, odd)
			}
			return i
		case c == '\\':
			if i+1 == len(b) {
				return -1
			}
			switch escapes[b[i+1]] {
			case shortEscape:
				// Escapes often come in runs, at the ends and beginnings of lines.
				first := i
				for i += 2; i+1 < len(b) && b[i] == '\\' && escapes[b[i+1]] == shortEscape; {
					i += 2
				}
				more -= int64(i-first) / 2
				printed += int64(i-first) / 2
				growth.before = false
				continue
			case hexEscape:
				if _, ok := hex(b[i:]); !ok {
					return -1
				}
			case noEscape:
				return -1
			}
			r, n := unescape(b[i:])
			length := asText.runeLength(r)
			more += length - int64(n) + growth.of(r)
			printed += asJSON.runeLength(r) - length
			odd = true
			i += n
		case c < ' ':
			return -1
		default:
			// Nearly all of these characters have two or three bytes, and come in
			// runs.
			for i < len(b) && b[i] >= utf8.RuneSelf {
				r, n := rune(0), 0
				switch c, rest := b[i], b[i:]; {
				case c >= 0xc2 && c < 0xe0 && len(rest) > 1 && rest[1]&0xc0 == 0x80:
					r, n = rune(c&0x1f)<<6|rune(rest[1]&0x3f), 2
				case c > 0xe0 && c < 0xed && len(rest) > 2 && rest[1]&0xc0 == 0x80 && rest[2]&0xc0 == 0x80:
					r, n = rune(c&0x0f)<<12|rune(rest[1]&0x3f)<<6|rune(rest[2]&0x3f), 3
				default:
					if r, n = utf8.DecodeRune(rest); r == utf8.RuneError && n == 1 {
						return -1
					}
				}
				more += growth.of(r)
				i += n
			}
		}
	}
}

// The meaning of a character after a backslash.
const (
	noEscape       byte = iota
	shortEscape         // the escape is the shortest form
	needlessEscape      // the character may stand for itself
	hexEscape
)

var escapes = [256]byte{
	'"': shortEscape, '\\': shortEscape, 'b': shortEscape, 'f': shortEscape, 'n': shortEscape, 'r': shortEscape, 't': shortEscape,
	'/': needlessEscape, 'u': hexEscape,
}

// special returns the index of the first special character in a string at or after i:
// a quote, a backslash, a control character, or one beyond ASCII.
func special(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if m := specials(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(b) && b[i] >= ' ' && b[i] < utf8.RuneSelf && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// specials sets the high bit of the first special character of eight, and is 0 if
// there is none. Subtracting one from a byte below 0x80 sets its high bit if it was
// 0, and a borrow can only make later bytes wrong.
func specials(w uint64) uint64 {
	return (w | ((w ^ ones*'"') - ones) | ((w ^ ones*'\\') - ones) | (w - ones*' ')) & highs
}
