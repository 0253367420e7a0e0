package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

// Empty is not none: `--models "$MODELS"` with a variable that nobody set, or a
// list that a program found nothing for, would otherwise be a key without the
// rule that somebody meant. So what is given holds something; what is to have
// no rule is left out, or null.

// blankable are the fields of bodies that may be empty, because no rule hangs on
// them.
var blankable = map[string]string{
	"reason": "a note; programs send that of a form as it was left",
	"text":   "what is searched for keys may hold nothing",
	"filter": "revoking many says itself that it needs a filter or all",
}

var errBlankField = errors.New("must not be empty: leave it out, or say null, for none")

// givenField refuses a field of a body that is there and holds nothing.
func givenField(name string, value json.RawMessage) error {
	if _, ok := blankable[name]; !ok && hollow(value) {
		return errBlankField
	}
	return nil
}

// hollow reports whether a JSON value is an empty text, list or object.
func hollow(value json.RawMessage) bool {
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
