package upstream

import "slices"

// outline records where the parts of a request's JSON are, and how many tokens its
// strings are. It is made while the text is checked, so that later passes do not read
// its strings again. It is an optimization: it may be nil, and anything that it does
// not record is computed without it.
type outline struct {
	text       []byte
	fields     []field   // the members of the text's object; incomplete if there are many
	strings    []written // the strings from the beginning of the text, in order, except the shortest
	elements   []uint32  // where the elements of the object's lists end, in order
	rewritten  []uint32  // where the text has something that [digester] has to look at
	overflowed bool      // there are more such places than are recorded
	next       int       // the string that will most likely be looked up next
	after      int       // the element that will most likely be looked up next
}

// field is a member of an object, with its name unescaped.
type field struct {
	name  string
	value []byte
}

// written is a string in the text.
type written struct {
	from, length uint32 // both include the quotes
	tokens       uint32 // its stringLength as text
	printed      uint32 // how much longer its stringLength as JSON is
}

const (
	// maxOutlined is the longest text that an outline is made for, in bytes.
	maxOutlined = 1 << 28
	// maxOutlineItems bounds the strings and the elements of an outline, each of
	// which also take at most two bytes for each byte of the text.
	maxOutlineItems = 1 << 15
	// notedString is the shortest string that is recorded, including its quotes.
	// Shorter ones, which most are, are counted as fast as they are found.
	notedString     = 34
	maxOutlineField = 64
	maxRewritten    = 64
)

// newOutline returns an outline for a text that is about to be checked, or nil.
func newOutline(b []byte) *outline {
	if len(b) > maxOutlined {
		return nil
	}
	return &outline{text: b, strings: make([]written, 0, len(b)/256+4), fields: make([]field, 0, 16)}
}

func (o *outline) addField(name, value []byte) {
	if len(o.fields) == maxOutlineField {
		return
	}
	o.fields = append(o.fields, field{view(name), value})
}

func (o *outline) addElement(end int) {
	if o.elements == nil {
		o.elements = make([]uint32, 0, len(o.text)/256+8)
	}
	if len(o.elements) < min(maxOutlineItems, len(o.text)/8) {
		o.elements = append(o.elements, uint32(end))
	}
}

// addRewritten records a place that [digester] has to look at.
func (o *outline) addRewritten(at int) {
	if o == nil || o.overflowed {
		return
	}
	if len(o.rewritten) == maxRewritten {
		o.overflowed = true
		return
	}
	o.rewritten = append(o.rewritten, uint32(at))
}

func (o *outline) addString(s []byte, from int, more, printed int64, odd bool) {
	if odd || meansMore(s[1:len(s)-1]) {
		o.addRewritten(from)
	}
	if len(s) >= notedString && len(o.strings) < maxOutlineItems {
		o.strings = append(o.strings, written{uint32(from), uint32(len(s)), uint32(int64(len(s)) + more), uint32(printed)})
	}
}

// at returns the index in the text at which b, a part of it, begins; -1 if b is not a
// part of it.
func (o *outline) at(b []byte) int {
	at := cap(o.text) - cap(b)
	if at < 0 || at >= len(o.text) || len(b) == 0 || &o.text[at] != &b[0] {
		return -1
	}
	return at
}

// find returns the record of the string at the beginning of b, or nil.
func (o *outline) find(b []byte) *written {
	if o == nil {
		return nil
	}
	at := o.at(b)
	if at < 0 {
		return nil
	}
	i := o.next
	if i >= len(o.strings) || o.strings[i].from != uint32(at) {
		if (i >= len(o.strings) || o.strings[i].from > uint32(at)) && (i == 0 || o.strings[i-1].from < uint32(at)) {
			return nil // it would be between the two
		}
		found := false
		i, found = slices.BinarySearchFunc(o.strings, uint32(at), func(w written, at uint32) int { return int(w.from) - int(at) })
		if !found {
			return nil
		}
	}
	o.next = i + 1
	return &o.strings[i]
}

// element returns the length of the list element at the beginning of b.
func (o *outline) element(b []byte) int {
	if o != nil {
		if at := o.at(b); at >= 0 {
			i := o.after
			if i >= len(o.elements) || int(o.elements[i]) <= at || i > 0 && int(o.elements[i-1]) > at {
				i, _ = slices.BinarySearch(o.elements, uint32(at)+1)
			}
			if i < len(o.elements) {
				o.after = i + 1
				return int(o.elements[i]) - at
			}
		}
	}
	return skipValue(b)
}

// canonical reports whether a value is written as a digester would write it.
func (o *outline) canonical(value []byte) bool {
	if o == nil || o.overflowed {
		return false
	}
	at := o.at(value)
	if at < 0 {
		return false
	}
	i, _ := slices.BinarySearch(o.rewritten, uint32(at))
	return i == len(o.rewritten) || int(o.rewritten[i]) >= at+len(value)
}

func (o *outline) whole() bool { return o != nil && len(o.fields) < maxOutlineField }
