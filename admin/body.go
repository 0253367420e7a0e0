package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/limiter"
)

// maxBody bounds the body of a management call, in bytes.
const maxBody = 1 << 20

// readBody reads one JSON object into a struct, field by field, so that every error
// names its field. An unknown field is an error: a caller must not believe that a
// misspelt limit holds.
//
// A field that is null counts as left out, unless into is an unsetter.
func readBody(r *http.Request, into any) error { return readBodyOf(r, into, maxBody) }

// readBodyOf is readBody with another bound on the length of the body.
func readBodyOf(r *http.Request, into any, limit int64) error {
	body, err := wholeBody(r, limit)
	if err != nil {
		return err
	}
	if err := checkNamesUnique(body); err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return malformed(err)
	}
	u, unsets := into.(unsetter)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := readField(name, fields[name], into); err != nil {
			return err
		}
		if unsets && string(fields[name]) == "null" && !u.unset(name) {
			return invalid("%s cannot be null", name)
		}
	}
	return nil
}

// wholeBody reads the entire body, and leaves it to be read again.
func wholeBody(r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, &apiError{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body may be at most %d bytes long", limit)}
	}
	if ended, ok := errors.AsType[*limiter.StandingError](err); ok {
		return nil, ended.Err
	}
	if err != nil {
		return nil, invalid("reading the body: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

// unsetter is a body in which null removes a field.
type unsetter interface {
	// unset marks the field for removal, or reports that it cannot be removed.
	unset(field string) bool
}

// readOptionalBody is readBody for calls that may have no body.
func readOptionalBody(r *http.Request, into any) error {
	body, err := wholeBody(r, maxBody)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	return readBody(r, into)
}

// readField decodes one field of an object into the struct's field of exactly that
// name. encoding/json by itself ignores the case of letters.
func readField(name string, value json.RawMessage, into any) error {
	unknown := invalid("unknown field %q", prose.Cut(name, 64))
	if strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		return unknown
	}
	if _, ok := mayBeEmpty[name]; !ok && isEmpty(value) {
		return invalid("%s must not be empty: leave it out, or set it to null, for none", name)
	}
	d := json.NewDecoder(strings.NewReader(`{"` + name + `":` + string(value) + `}`))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	kind, ofKind := errors.AsType[*json.UnmarshalTypeError](err)
	_, ofTime := errors.AsType[*time.ParseError](err)
	switch {
	case err == nil:
		return nil
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return unknown
	case ofKind:
		return invalid("%s must %s, got %s", name, kindName(kind.Type.String(), value), kind.Value)
	case ofTime:
		return invalid("%s must be a time such as 2026-12-31T18:00:00Z, got %s", name, value)
	}
	return invalid("%s: %s", name, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "json: "), name+" "))
}

// kindName says which JSON a Go type is written as, for an error message.
func kindName(goType string, value json.RawMessage) string {
	verb := "be "
	if len(value) > 0 && (value[0] == '[' || value[0] == '{') {
		verb = "hold "
	}
	switch {
	case strings.Contains(goType, "int"):
		return verb + "a whole number"
	case strings.HasPrefix(goType, "[]"):
		return "be a list"
	case strings.HasPrefix(goType, "map"):
		return "be an object"
	case strings.Contains(goType, "bool"):
		return verb + "true or false"
	}
	return verb + "text"
}

// malformed is the error for a body that is not a JSON object.
func malformed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("the body must be a complete JSON object")
	}
	return invalid("the body must be a JSON object: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// checkNamesUnique refuses everything but a single JSON object that has each name
// once: of two values for one name, different parsers take different ones.
func checkNamesUnique(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	type level struct {
		names map[string]bool // nil in a list
		name  bool            // a name comes next
	}
	var stack []level
	for {
		t, err := d.Token()
		if err != nil {
			return malformed(err)
		}
		if len(stack) == 0 && t != json.Delim('{') {
			return invalid("the body must be a JSON object")
		}
		if top := len(stack) - 1; top >= 0 && stack[top].names != nil && stack[top].name {
			if name, ok := t.(string); ok {
				if stack[top].names[name] {
					return invalid("the field %q is given twice", prose.Cut(name, 64))
				}
				stack[top].names[name] = true
				stack[top].name = false
				continue
			}
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, level{names: map[string]bool{}, name: true})
			continue
		case json.Delim('['):
			stack = append(stack, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		if top := len(stack) - 1; top >= 0 {
			stack[top].name = stack[top].names != nil
			continue
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return invalid("the body must hold one JSON object and nothing after it")
		}
		return nil
	}
}

// An empty value is refused, and does not mean "none": with `--models "$MODELS"`,
// where the variable is not set, or with a list for which a program found nothing,
// a key would be minted without the rule that somebody meant it to have. A caller
// who wants no rule leaves the field out, or sends null.

// mayBeEmpty lists the fields of bodies that may be empty because they are not
// rules, each with the reason.
var mayBeEmpty = map[string]string{
	"reason": "a note; programs send the field of a form as it was left",
	"text":   "a text that is searched for keys may be empty",
	"filter": "a bulk revocation has its own error for a body with neither filter nor all",
}

// isEmpty reports whether a JSON value is an empty text, list or object.
func isEmpty(value json.RawMessage) bool {
	value = bytes.TrimSpace(value)
	if len(value) < 2 {
		return false
	}
	switch inner := bytes.TrimSpace(value[1 : len(value)-1]); value[0] {
	case '[', '{':
		return len(inner) == 0
	case '"':
		var text string
		return json.Unmarshal(value, &text) == nil && strings.TrimSpace(text) == ""
	}
	return false
}
