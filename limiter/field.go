package limiter

import (
	"fmt"
	"net/netip"
	"reflect"
	"time"
)

// Choice says when somebody chooses a field of a key.
type Choice uint8

const (
	Noted      Choice = iota // never: the server notes it
	AtMint                   // when the key is minted
	WhileAlive               // until the key has ended
	Always                   // also after that
)

// Field is one field of a key, and everything in which it differs from the others.
type Field struct {
	// Name is what the management API, errors and the audit log call it; empty
	// for what only the server reads.
	Name string
	// Doc is its meaning, for the description of the API; of what is chosen.
	Doc    string
	Choice Choice
	// Inherited says that a child which is minted without it gets its parent's.
	Inherited bool
	// OfParent says that the holder of a key does not choose it for a child.
	OfParent bool

	at func(*Key) any // its address
	// valid judges what somebody chose, by itself or with other fields.
	valid func(name string, k *Key) error
	none  any // what stands for "not set"; nil: the zero value
	// stays says that a field cannot be taken away.
	stays bool
	// fact is its value as the audit log shows it, nil where it is not set. The
	// default is plain.
	fact func(*Key) any

	// equal says that a child has exactly its parent's. Otherwise wider says what
	// a child must keep to where it may do more than its parent, and is nil where
	// the field does not decide that.
	equal bool
	wider func(child, parent *Key) string
	// widens reports whether a change lets the key do more than it could. The
	// default is that the changed key could not be a child of the old one.
	widens func(key, old *Key) bool

	// hold says what the ceilings of a role demand of the key, after it has filled
	// in what the key leaves out; see [Limiter.ceilings].
	hold func(r *Role, operator bool, old, key *Key) string
	// lacks says what a key without the field lacks, if hold would fill in what
	// stands in as.
	lacks func(as *Key) string
}

// FieldNamed is the field of that name; nil: there is none.
func FieldNamed(name string) *Field {
	for i := range KeyFields {
		if KeyFields[i].Name == name && name != "" {
			return &KeyFields[i]
		}
	}
	return nil
}

func (f *Field) value(k *Key) reflect.Value { return reflect.ValueOf(f.at(k)).Elem() }

func (f *Field) copy(to, from *Key) { f.value(to).Set(f.value(from)) }

// set reports whether the field says anything.
func (f *Field) set(k *Key) bool {
	switch v := f.value(k); {
	case f.none != nil:
		return v.Interface() != f.none
	case v.Kind() == reflect.Slice:
		return v.Len() > 0
	default:
		return !v.IsZero()
	}
}

// Clearable reports whether a change may take the field away.
func (f *Field) Clearable() bool { return f.Choice >= WhileAlive && !f.stays }

// Clear takes the field away.
func (f *Field) Clear(k *Key) {
	f.value(k).SetZero()
	if f.none != nil {
		f.value(k).Set(reflect.ValueOf(f.none))
	}
}

// Fact is the value as the audit log shows it; nil where the field is not set.
func (f *Field) Fact(k *Key) any {
	if f.fact != nil {
		return f.fact(k)
	}
	return plain(f.value(k).Interface())
}

// plain is a value for the audit log, without key strings that somebody wrote
// where they do not belong; nil of a zero.
func plain(value any) any {
	switch v := value.(type) {
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return stamp(v)
	case map[string]string:
		if len(v) == 0 {
			return nil
		}
		clean := make(map[string]any, len(v))
		for name, text := range v {
			clean[scrub(name)] = scrub(text)
		}
		return clean
	case []string:
		if len(v) == 0 {
			return nil
		}
		return v
	case []netip.Prefix:
		var texts []string
		for _, p := range v {
			texts = append(texts, p.String())
		}
		return plain(texts)
	}
	v := reflect.ValueOf(value)
	switch text, ok := value.(fmt.Stringer); {
	case v.IsZero():
		return nil
	case ok:
		return plain(text.String())
	case v.Kind() == reflect.String:
		return scrub(v.String())
	}
	return value
}

// beyond says in what a child would be wider than its parent; empty: it is not.
func (f *Field) beyond(child, parent *Key) string {
	switch {
	case f.equal && f.value(child).Interface() != f.value(parent).Interface():
		return "cannot be set on a child key: it is its parent's"
	case f.wider == nil:
		return ""
	}
	return f.wider(child, parent)
}

// choose copies the fields that are chosen at such times.
func (k *Key) choose(from *Key, at Choice) {
	for _, f := range KeyFields {
		if f.Choice == at {
			f.copy(k, from)
		}
	}
}
