package record

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
)

// InvalidError is a value that is refused, and how to correct it.
type InvalidError struct {
	Field string // as in the management API
	Msg   string
}

func (e *InvalidError) Error() string { return e.Field + " " + e.Msg }

func Invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

// Either lists words as they stand in messages: "a, b or c".
func Either[Word ~string](of []Word) string {
	var b strings.Builder
	for i, word := range of {
		switch i {
		case 0:
		case len(of) - 1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(word))
	}
	return b.String()
}

func invalidIf(wrong bool, field, format string, args ...any) error {
	if wrong {
		return Invalid(field, format, args...)
	}
	return nil
}

const (
	IDPrefix       = "key_"
	maxText        = 512               // bytes of a name, owner, purpose, reason, label
	maxPairs       = 64                // labels, and as many of metadata
	maxTexts       = 16 << 10          // bytes of all text of a key: it is in memory, and in the audit log
	MaxAmount      = math.MaxInt64 / 4 // the sum of two cannot overflow
	maxConcurrency = 1 << 20
)

// Validate judges what an operator may choose, in a mint and in a change.
func (k *Key) Validate() error {
	for _, f := range KeyFields {
		if f.valid != nil {
			if err := f.valid(f.Name, k); err != nil {
				return err
			}
		}
	}
	if n := k.texts(); n > maxTexts {
		return Invalid("key:", "name, labels, metadata, models, paths and all other text together may be %d bytes, got %d", maxTexts, n)
	}
	if err := k.Scope.Validate(); err != nil {
		return &InvalidError{Field: "scope:", Msg: err.Error()}
	}
	return nil
}

// texts is the length of all text that was chosen for the key.
func (k *Key) texts() int {
	n := len(k.Name) + len(k.Owner) + len(k.Purpose)
	for _, pairs := range []map[string]string{k.Labels, k.Metadata} {
		for name, value := range pairs {
			n += len(name) + len(value)
		}
	}
	for _, list := range [][]string{k.Scope.Models, k.Scope.Paths, k.Scope.Methods} {
		for _, rule := range list {
			n += len(rule)
		}
	}
	return n
}

func ValidText(field, s string) error {
	if len(s) > maxText {
		return Invalid(field, "must be at most %d bytes, got %d", maxText, len(s))
	}
	for _, r := range s {
		// This includes control characters of one byte in Latin-1, which begin
		// sequences in terminals, and those that disguise text.
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return Invalid(field, "must not contain control characters")
		}
	}
	return nil
}

// ValidTime judges a time that was chosen: JSON has four digits for a year.
func ValidTime(field string, t time.Time) error {
	return invalidIf(t.UTC().Year() > 9999, field, "must be before the year 10000")
}

func validPairs(field string, pairs map[string]string) error {
	if len(pairs) > maxPairs {
		return Invalid(field, "may hold %d entries, got %d", maxPairs, len(pairs))
	}
	for name, value := range pairs {
		if name == "" {
			return Invalid(field, "must not have an entry without a name")
		}
		if err := errors.Join(ValidText(field, name), ValidText(field+"."+name, value)); err != nil {
			return err
		}
	}
	return nil
}
