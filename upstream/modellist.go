package upstream

import (
	"bytes"
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
		return filterList(nil, body, allowed)
	}
	o, err := parseObject(body)
	if err != nil {
		return nil, errNoList
	}
	out := make([]byte, 0, len(body))
	err = o.members(func(name string, value []byte) error {
		if len(out) == 0 {
			out = append(out, '{')
		} else {
			out = append(out, ',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return err
		}
		out = append(append(out, quoted...), ':')
		if (name == "data" || name == "models") && value[0] == '[' {
			out, err = filterList(out, value, allowed)
			return err
		}
		out = append(out, value...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return []byte("{}"), nil
	}
	return append(out, '}'), nil
}

// filterList appends a list without the models that are not allowed, and without
// elements that cannot be recognized as models.
func filterList(out, list []byte, allowed func(string) bool) ([]byte, error) {
	out = append(out, '[')
	first := true
	err := elements(list, func(element []byte) error {
		model, err := listedModel(element)
		if err != nil || model == "" || !allowed(model) {
			return err
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(out, element...)
		return nil
	})
	return append(out, ']'), err
}

// listedModel returns the name by which a request would choose an element of a list:
// its id, its name (Gemini's and Cohere's lists have no id), or its model (Ollama's).
func listedModel(element []byte) (string, error) {
	switch element[0] {
	case '"':
		return unquote(element)
	case '{':
	default:
		return "", nil
	}
	var names [3]string
	err := rawObject(element).members(func(name string, value []byte) error {
		for i, field := range []string{"id", "name", "model"} {
			if name == field && value[0] == '"' {
				var err error
				names[i], err = unquote(value)
				return err
			}
		}
		return nil
	})
	for _, name := range names {
		if name != "" {
			return strings.TrimPrefix(name, "models/"), err
		}
	}
	return "", err
}
