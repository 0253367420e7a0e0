package upstream

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"strings"
)

// errNoList says that an answer is not a list of models that can be filtered.
var errNoList = errors.New("the answer is not a list of models")

// FilterModels keeps those models of a vendor's list that may be used, and leaves
// everything else as it is. A list has the form {"data":[…]}, {"models":[…]} or […].
func FilterModels(body []byte, allowed func(model string) bool) ([]byte, error) {
	body = bytes.Trim(body, jsonSpace)
	if len(body) > 0 && body[0] == '[' && json.Valid(body) {
		return filterList(nil, body, allowed), nil
	}
	o, err := parseObject(body)
	if err != nil {
		return nil, errNoList
	}
	out := append(make([]byte, 0, len(body)), '{')
	for name, value := range o.members {
		if len(out) > 1 {
			out = append(out, ',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		out = append(append(out, quoted...), ':')
		if (name == "data" || name == "models") && value[0] == '[' {
			out = filterList(out, value, allowed)
		} else {
			out = append(out, value...)
		}
	}
	return append(out, '}'), nil
}

// filterList appends a list without the models that are not allowed, and without
// elements that cannot be recognized as models.
func filterList(out, list []byte, allowed func(string) bool) []byte {
	out = append(out, '[')
	first := true
	for element := range rawList(list).elements {
		if model := listedModel(element); model == "" || !allowed(model) {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(out, element...)
	}
	return append(out, ']')
}

// listedModel returns the name by which a request would choose an element of a list:
// its id, its name (Gemini's and Cohere's lists have no id), or its model (Ollama's).
func listedModel(element []byte) string {
	if element[0] != '{' {
		return word(element)
	}
	var id, named, model string // of a repeated member, the last that is text counts
	for name, value := range rawObject(element).members {
		switch {
		case value[0] != '"':
		case name == "id":
			id = view(value)
		case name == "name":
			named = view(value)
		case name == "model":
			model = view(value)
		}
	}
	return strings.TrimPrefix(cmp.Or(id, named, model), "models/")
}
