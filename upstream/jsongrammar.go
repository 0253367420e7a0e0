package upstream

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// This is RFC 8259's grammar. encoding/json judges the same in a state machine
// that is called for every byte, which was a third of what a large request cost.

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// maxNesting is how deep objects and lists may stand in each other, as in
// encoding/json.
const maxNesting = 10_000

// wellFormed reports whether b is one JSON text, and its strings UTF-8. Where it
// is, o is its outline from then on; o may be nil.
func wellFormed(b []byte, o *outline) bool {
	end := o.valueEnd(b, o.blanks(b, 0), 0)
	return end > 0 && o.blanks(b, end) == len(b)
}

// blanks is where in b something stands, from i on.
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

// valueEnd is where the value ends that begins at i, or -1 where there is none
// that is well formed.
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

// membersEnd is where the object or list ends that begins at i.
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

// digitsEnd is where one digit or more end.
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

// stringEnd is where the string ends whose first character is at i. What it says
// has tokens as stringLength counts them.
func (o *outline) stringEnd(b []byte, i int) int {
	from := i - 1
	var growth growing
	var more, printed int64 // by which what it says is longer than how it is written, and longer yet as JSON
	odd := false
	for {
		// As special does, which is too long to be put here by the compiler.
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
				// Lines end and begin with several.
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
			// Nearly all are of two bytes, or of three, and stand beside others.
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

// What a character means behind a backslash.
const (
	noEscape       byte = iota
	shortEscape         // there is no shorter way to write it
	needlessEscape      // of what may stand for itself
	hexEscape
)

var escapes = [256]byte{
	'"': shortEscape, '\\': shortEscape, 'b': shortEscape, 'f': shortEscape, 'n': shortEscape, 'r': shortEscape, 't': shortEscape,
	'/': needlessEscape, 'u': hexEscape,
}

// special is where in a string the first character is, from i on, that is no
// plain one: a quote, a backslash, a control character, or one beyond ASCII.
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

// specials has the high bit of the first special character of eight set, and is 0
// where none is. Taking one from a byte below 0x80 sets its high bit if it was 0,
// and what is borrowed by a byte makes only those behind it wrong.
func specials(w uint64) uint64 {
	return (w | ((w ^ ones*'"') - ones) | ((w ^ ones*'\\') - ones) | (w - ones*' ')) & highs
}
