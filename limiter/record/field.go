package record

import (
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/till-proxy/till/token"
)

// Choice says when a field of a key can be chosen.
type Choice uint8

const (
	Noted      Choice = iota // never: the server notes it
	AtMint                   // when the key is minted
	WhileAlive               // until the key has ended
	Always                   // even after it has ended
)

// Field is one field of a key, and everything in which it differs from the others.
type Field struct {
	// Name is what the management API, errors and the audit log call the field;
	// empty for a field that only the server reads.
	Name string
	// Doc is the field's meaning, for the description of the API; only fields
	// that can be chosen have one.
	Doc    string
	Choice Choice
	// Inherited says that a child that is minted without the field gets its
	// parent's.
	Inherited bool
	// OfParent says that the holder of a key cannot choose the field for a child.
	OfParent bool

	Address func(*Key) any // a pointer to the field
	// valid judges a chosen value, by itself or together with other fields.
	valid func(name string, k *Key) error
	none  any // what stands for "not set"; nil: the zero value
	// stays says that the field cannot be cleared.
	stays bool
	// fact is the field's value as the audit log shows it, nil where it is not
	// set. The default is plain.
	fact func(*Key) any

	// equal says that a child has exactly its parent's value. Otherwise wider
	// names the limit that a child must keep to where it may do more than its
	// parent; wider is nil where the field does not decide that.
	equal bool
	wider func(child, parent *Key) string
	// widens reports whether a change lets the key do more than it could. The
	// default is that the changed key could not be a child of the old one.
	widens func(key, old *Key) bool

	// hold says what the ceilings of a role demand of the key, after it has
	// filled in what the key leaves out.
	hold func(r *Role, operator bool, old, key *Key) string
	// lacks says what a key without the field lacks, if hold would fill in the
	// value that as has.
	lacks func(as *Key) string
}

// FieldNamed returns the field of that name, or nil if there is none.
func FieldNamed(name string) *Field {
	for i := range KeyFields {
		if KeyFields[i].Name == name && name != "" {
			return &KeyFields[i]
		}
	}
	return nil
}

func (f *Field) value(k *Key) reflect.Value { return reflect.ValueOf(f.Address(k)).Elem() }

func (f *Field) copy(to, from *Key) { f.value(to).Set(f.value(from)) }

// Clearable reports whether a change may clear the field.
func (f *Field) Clearable() bool { return f.Choice >= WhileAlive && !f.stays }

// Clear clears the field.
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

// plain is a value for the audit log, without key strings that were written where
// they do not belong; nil for a zero value.
func plain(value any) any {
	v := reflect.ValueOf(value)
	if v.IsZero() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 {
		return nil
	}
	switch value := value.(type) {
	case time.Time:
		return Stamp(value)
	case map[string]string:
		clean := make(map[string]any, len(value))
		for name, text := range value {
			clean[token.Scrub(name)] = token.Scrub(text)
		}
		return clean
	case []netip.Prefix:
		texts := make([]string, len(value))
		for i, p := range value {
			texts[i] = p.String()
		}
		return texts
	case fmt.Stringer:
		return plain(value.String())
	}
	if v.Kind() == reflect.String {
		return token.Scrub(v.String())
	}
	return value
}

// beyond says in which way a child would be wider than its parent; empty if it would
// not be.
func (f *Field) beyond(child, parent *Key) string {
	switch {
	case f.equal && f.value(child).Interface() != f.value(parent).Interface():
		return "cannot be set on a child key: it is its parent's"
	case f.wider == nil:
		return ""
	}
	return f.wider(child, parent)
}

// Choose copies the fields that are chosen at that time.
func (k *Key) Choose(from *Key, at Choice) {
	for _, f := range KeyFields {
		if f.Choice == at {
			f.copy(k, from)
		}
	}
}
