package admin

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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

// filledFlag is a flag that must not be given with nothing in it, nor with an
// entry of a list that is empty.
type filledFlag struct{ pflag.Value }

// Set implements pflag.Value.
func (f filledFlag) Set(text string) error {
	entries := []string{text}
	if f.Type() != "string" && text != "" {
		list, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			return f.Value.Set(text) // which says what is wrong with it
		}
		entries = list
	}
	for _, entry := range entries {
		if f.Type() == "stringToString" {
			if name, value, ok := strings.Cut(entry, "="); ok && (strings.TrimSpace(name) == "" || strings.TrimSpace(value) == "") {
				return errors.New("neither name nor value may be empty, as in NAME=VALUE")
			}
		}
		if strings.TrimSpace(entry) == "" {
			return errors.New("it is empty, as when a variable is not set: leave the flag out for none")
		}
	}
	return f.Value.Set(text)
}

// fill lets every flag of a command refuse to be empty.
func fill(cmd *cobra.Command) {
	wrap := func(flag *pflag.Flag) {
		switch flag.Value.Type() {
		case "stringSlice", "stringToString":
			flag.DefValue = "" // help knows the types of such flags, and not this one
			fallthrough
		case "string":
			flag.Value = filledFlag{flag.Value}
		}
	}
	cmd.PersistentFlags().VisitAll(wrap)
	cmd.LocalNonPersistentFlags().VisitAll(wrap)
	for _, sub := range cmd.Commands() {
		fill(sub)
	}
}
