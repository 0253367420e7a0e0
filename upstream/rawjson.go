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

// rawObject is a valid JSON object, from its "{" to its "}". Its members are
// walked in place: nothing is copied, and what no limit asks for is skipped.
type rawObject []byte

var (
	errNoObject = errors.New("the body is not one JSON object")
	errNotUTF8  = errors.New("the body is not UTF-8")
)

// parseObject checks that body is one JSON object in UTF-8 and nothing else,
// as every reader of RFC 8259 would see it.
func parseObject(body []byte) (rawObject, error) { return parseOutlined(body, nil) }

// outlined is parseObject, and makes an outline, where one is wanted.
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

// members calls fn for each member, in order, with the name as it is after
// unescaping, until fn returns an error. The name lies in the object itself:
// who keeps it for longer than that must clone it.
func (o rawObject) members(fn func(name string, value []byte) error) error {
	b := o[1:]
	for {
		b = b[spaces(b):]
		if b[0] == '}' {
			return nil
		}
		n := skipString(b)
		name, err := view(b[:n])
		if err != nil {
			return err
		}
		b = b[n:]
		b = b[spaces(b):]
		n = skipValue(b)
		if err := fn(name, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
}

// fields are its members.
func (o rawObject) fields() (all []field) {
	_ = o.members(func(name string, value []byte) error {
		all = append(all, field{name, value})
		return nil
	}) // a name that cannot be read is none that is looked for
	return all
}

// elements calls fn for each element of a valid JSON array.
func elements(array []byte, fn func(value []byte) error) error {
	b := array[1:]
	for {
		b = b[spaces(b):]
		if b[0] == ']' {
			return nil
		}
		n := skipValue(b)
		if err := fn(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
}

// skipValue returns the length of the value that valid JSON begins with.
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

// toMark is how far away in a valid string its end or an escape is.
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

// marks has the highest bit of the first of eight bytes that is a quote or a
// backslash; bits above that one mean nothing.
func marks(w uint64) uint64 {
	quote, slash := w^(ones*'"'), w^(ones*'\\')
	return ((quote-ones)&^quote | (slash-ones)&^slash) & highs
}

// text decodes a valid JSON string.
func unquote(value []byte) (string, error) {
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), nil
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err
}

// view is text without a copy where nothing has to be unescaped.
func view(value []byte) (string, error) {
	if inner := value[1 : len(value)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return inPlace(inner), nil
	}
	return unquote(value)
}

// inPlace is b as a string, for as long as nobody changes b.
func inPlace(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// folded is a name as every reader of JSON could take it: encoding/json does not
// tell apart the case of letters (nor the letters that Unicode folds to them),
// and protobuf's JSON leaves out underscores.
func folded(name string) string {
	if f, ok := foldedKnown[name]; ok {
		return f
	}
	return fold(name)
}

// foldedKnown leads from the names that requests have to what they fold to.
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

// sameField reports whether two readers of JSON could take one name for the
// other.
func sameField(a, b string) bool { return folded(a) == folded(b) }

// fieldSet notes which names were seen, to find those that stand twice.
type fieldSet struct {
	few  []string
	many map[string]bool // all, when they are no longer few
}

// fewFields are compared one by one.
const fewFields = 32

// add reports whether the name, or one like it, was there before.
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
