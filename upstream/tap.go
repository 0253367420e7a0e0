package upstream

import (
	"bytes"
	"slices"
)

// tap walks through a JSON text as it comes, in pieces of any size, and keeps
// the members of the outermost object that may hold usage; of a text that is a
// list, those of its elements, which is how Gemini streams without SSE.
type tap struct {
	depth    int
	list     bool   // the text is a list
	string   bool   // within a string
	escaped  bool   // after a backslash
	key      []byte // begins in room, as value does: most are short
	reading  bool   // the string is a key of the level that is watched
	expect   bool   // a key may begin
	value    []byte
	holding  bool // a value is being kept
	tooLong  bool
	word     bool // the string is a member that the Meter wants
	finished bool // what follows the text is of no interest
	room     struct {
		key   [maxHolder + 8]byte
		value [256]byte
	}
}

// level is the depth at which the watched members stand.
func (t *tap) level() int {
	if t.list {
		return 2
	}
	return 1
}

func (t *tap) write(b []byte, m *Meter) {
	if t.key == nil {
		t.key, t.value = t.room.key[:0], t.room.value[:0]
	}
	quote := -1 // where the next one stands, as soon as it was looked for
	for i := 0; i < len(b) && !t.finished; i++ {
		from := i
		switch {
		case !t.string:
			for i < len(b) && !marks[b[i]] {
				i++
			}
		case !t.escaped:
			if quote < i {
				if quote = bytes.IndexByte(b[i:], '"'); quote < 0 {
					quote = len(b)
				} else {
					quote += i
				}
			}
			if n := bytes.IndexByte(b[i:quote], '\\'); n >= 0 {
				i += n
			} else {
				i = quote
			}
		}
		if t.depth == 0 && !t.string && !blank(b[from:i]) {
			t.finished = true // it is no JSON
			return
		}
		t.take(b[from:i])
		if i < len(b) {
			t.step(b[i], m)
		}
	}
}

// blank reports whether there is nothing but space, or parts of a byte order
// mark.
func blank(b []byte) bool {
	for _, c := range b {
		switch c {
		case ' ', '\t', '\r', '\n', 0xef, 0xbb, 0xbf:
		default:
			return false
		}
	}
	return true
}

// take keeps what stands between two bytes that mean something, where it is
// wanted.
func (t *tap) take(b []byte) {
	switch {
	case t.holding && len(t.value)+len(b) <= maxMeterLine:
		t.value = append(t.value, b...)
	case t.holding:
		t.tooLong = true
	case !t.string:
	case t.reading:
		t.key = append(t.key, b[:min(len(b), maxHolder+1-len(t.key))]...)
	case t.word:
		t.value = append(t.value, b[:min(len(b), maxModelName+1-len(t.value))]...)
	}
}

// marks are the bytes outside of strings that mean something to a tap.
var marks = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true, ',': true}

func (t *tap) step(c byte, m *Meter) {
	if t.holding || t.string && c != '"' || t.escaped {
		t.take([]byte{c})
	}
	switch {
	case t.string && t.escaped:
		t.escaped = false
	case t.string && c == '\\':
		t.escaped = true
	case t.string && c == '"':
		if t.word {
			m.word(string(t.key), append(t.value, '"'))
			t.word, t.value = false, t.value[:0]
		}
		t.string, t.reading = false, false
	case t.string: // after all an ordinary byte
	case c == '"':
		t.string = true
		if t.expect && t.depth == t.level() && !t.holding {
			t.reading, t.expect, t.key = true, false, t.key[:0]
		} else if t.depth == t.level() && !t.holding && slices.Contains(words, string(t.key)) {
			t.word, t.value = true, append(t.value[:0], '"')
		}
	case c == '{' || c == '[':
		if t.depth == 0 {
			t.list = c == '['
		}
		t.depth++
		if t.depth == t.level() {
			t.expect = true
		}
		if c == '{' && t.depth == t.level()+1 && slices.Contains(holders, string(t.key)) {
			t.holding, t.tooLong, t.value = true, false, append(t.value[:0], c)
		}
	case c == '}' || c == ']':
		t.depth--
		if t.holding && t.depth == t.level() {
			t.emit(m)
		}
		t.finished = t.depth <= 0
	case c == ',' && t.depth == t.level():
		t.expect, t.key = true, t.key[:0]
	}
}

// words are the members that are text and of interest.
var words = []string{"model", "modelVersion", "service_tier"}

// maxHolder is longer than any name in holders.
const maxHolder = 32

func (t *tap) emit(m *Meter) {
	t.holding = false
	if t.tooLong {
		return
	}
	if o, err := parseObject(t.value); err == nil {
		if err := m.member(string(t.key), o, 0); err != nil {
			m.broken = true
		}
	}
}
