package upstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// rawObject is a valid JSON object, from its "{" to its "}". Its members are walked
// in place: nothing is copied, and what no limit needs is skipped.
type rawObject []byte

var (
	errNoObject = errors.New("the body is not one JSON object")
	errNotUTF8  = errors.New("the body is not UTF-8")
)

// parseObject checks that body is exactly one JSON object in UTF-8, as every reader
// of RFC 8259 would see it.
func parseObject(body []byte) (rawObject, error) { return parseOutlined(body, nil) }

// parseOutlined is parseObject, and fills an outline unless o is nil.
func parseOutlined(body []byte, o *outline) (rawObject, error) {
	if !wellFormed(body, o) {
		if !utf8.Valid(body) {
			return nil, errNotUTF8
		}
		return nil, errNoObject
	}
	body = bytes.Trim(body, jsonSpace)
	if body[0] != '{' {
		return nil, errNoObject
	}
	return body, nil
}

const jsonSpace = " \t\r\n"

// members iterates over the members, in order, with their unescaped names. A name
// shares the object's memory: clone it to keep it longer.
func (o rawObject) members(yield func(name string, value []byte) bool) {
	for b := o[1:]; ; {
		b = b[spaces(b):]
		if b[0] == '}' {
			return
		}
		n := skipString(b)
		name := view(b[:n])
		b = b[n:]
		b = b[spaces(b):]
		n = skipValue(b)
		if !yield(name, b[:n]) {
			return
		}
		b = b[n:]
	}
}

func (o rawObject) fields() (all []field) {
	for name, value := range o.members {
		all = append(all, field{name, value})
	}
	return all
}

// get returns the value of a member, or nil. Of several with the name it is the first.
func (o rawObject) get(want string) []byte {
	for name, value := range o.members {
		if name == want {
			return value
		}
	}
	return nil
}

// rawList is a valid JSON array, from its "[" to its "]".
type rawList []byte

func (l rawList) elements(yield func(value []byte) bool) {
	for b := l[1:]; ; {
		b = b[spaces(b):]
		if b[0] == ']' {
			return
		}
		n := skipValue(b)
		if !yield(b[:n]) {
			return
		}
		b = b[n:]
	}
}

func isEmpty(value []byte) bool { return value[0] == '[' && value[1+spaces(value[1:])] == ']' }

// skipValue returns the length of the value at the beginning of valid JSON.
func skipValue(b []byte) int {
	switch b[0] {
	case '"':
		return skipString(b)
	case '{', '[':
		depth := 0
		for i := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				i += skipString(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return len(b)
	}
	if n := bytes.IndexAny(b, jsonSpace+",:]}"); n >= 0 {
		return n
	}
	return len(b)
}

func skipString(b []byte) int {
	for i := 1; i < len(b); {
		if i+8 <= len(b) && noMark(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
			continue
		}
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
		i++
	}
	return len(b)
}

// toMark returns the distance to the next quote or backslash in a valid string.
func toMark(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		if at := marks(binary.LittleEndian.Uint64(b[i:])); at != 0 {
			return i + bits.TrailingZeros64(at)/8
		}
	}
	for b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// noMark reports whether none of eight bytes is a quote or a backslash.
func noMark(w uint64) bool { return marks(w) == 0 }

// marks sets the high bit of the first of eight bytes that is a quote or a backslash;
// the bits above that one mean nothing.
func marks(w uint64) uint64 {
	quote, slash := w^(ones*'"'), w^(ones*'\\')
	return ((quote-ones)&^quote | (slash-ones)&^slash) & highs
}

// unquote decodes a JSON string. One that is not valid becomes empty.
func unquote(value []byte) (s string) {
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// view is unquote without a copy if nothing has to be unescaped.
func view(value []byte) string {
	if inner := value[1 : len(value)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return inPlace(inner)
	}
	return unquote(value)
}

// word is the view of a string, and empty for any other value.
func word(value []byte) string {
	if len(value) == 0 || value[0] != '"' {
		return ""
	}
	return view(value)
}

// inPlace returns b as a string, which is valid until b changes.
func inPlace(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// folded returns a name in the form in which any reader of JSON could match it:
// encoding/json ignores the case of letters (and of the letters that Unicode folds to
// them), and protobuf's JSON ignores underscores.
func folded(name string) string {
	if f, ok := foldedKnown[name]; ok {
		return f
	}
	return fold(name)
}

// foldedKnown maps the usual names in requests to their folded form.
var foldedKnown = func() map[string]string {
	m := make(map[string]string, len(knownFields))
	for name := range knownFields {
		m[name] = fold(name)
	}
	return m
}()

func fold(name string) string {
	plain := true
	for i := range len(name) {
		c := name[i]
		if c >= 0x80 {
			return strings.ReplaceAll(strings.ToLower(strings.ToUpper(name)), "_", "")
		}
		plain = plain && c != '_' && (c < 'A' || c > 'Z')
	}
	if plain {
		return name
	}
	return strings.ReplaceAll(strings.ToLower(name), "_", "")
}

// sameField reports whether some reader of JSON could take one name for the other.
func sameField(a, b string) bool { return folded(a) == folded(b) }

// fieldSet records which names were seen, to find duplicates.
type fieldSet struct {
	few  []string
	many map[string]bool // all names, once they are too many for few
}

// fewFields is how many names are compared one by one.
const fewFields = 32

// add records a name, and reports whether it, or one like it, was there before.
func (s *fieldSet) add(name string) bool {
	name = folded(name)
	switch {
	case s.many[name] || s.many == nil && slices.Contains(s.few, name):
		return true
	case len(s.few) < fewFields:
		s.few = append(s.few, name)
		return false
	case s.many == nil:
		s.many = make(map[string]bool, 2*fewFields)
		for _, name := range s.few {
			s.many[name] = true
		}
	}
	s.many[name] = true
	return false
}
