package upstream

import (
	"errors"
	"fmt"
	"mime"
	"strings"
)

// Call is a request as an upstream will read it.
type Call struct {
	Method      string
	Path        string // canonical and decoded
	Query       string // as sent
	ContentType string
	Encoding    string // the Content-Encoding
	Features    string // what its headers choose of the API
	Body        []byte

	parsed  rawObject // the body, when it was found to be an object
	outline *outline  // of it
}

// object is the body as one JSON object.
func (c *Call) object() (rawObject, error) {
	if c.parsed == nil {
		outline := newOutline(c.Body)
		o, err := parseOutlined(c.Body, outline)
		if err != nil {
			return nil, bodyError("%v", err)
		}
		c.parsed, c.outline = o, outline
	}
	return c.parsed, nil
}

// fields are the members of the body.
func (c *Call) fields() []field {
	if !c.outline.whole() {
		return c.parsed.fields()
	}
	return c.outline.fields
}

// members calls fn for the members of the body, as those of its object do.
func (c *Call) members(fn func(name string, value []byte) error) error {
	if !c.outline.whole() {
		return c.parsed.members(fn)
	}
	for _, f := range c.outline.fields {
		if err := fn(f.name, f.value); err != nil {
			return err
		}
	}
	return nil
}

// written reads how a body is written: its media type, and what that says besides;
// both are empty where there is no Content-Type. A body that is encoded or in other
// letters than UTF-8 could be read differently, and is an error.
func (c *Call) written() (kind string, params map[string]string, err error) {
	if c.Encoding != "" && !strings.EqualFold(c.Encoding, "identity") {
		return "", nil, bodyError("it is encoded as %.32q; send it as it is", c.Encoding)
	}
	switch c.ContentType {
	case "", "application/json":
		return c.ContentType, nil, nil // as nearly all do
	}
	if kind, params, err = mime.ParseMediaType(c.ContentType); err != nil {
		return "", nil, bodyError("its Content-Type %.64q is not well formed; write application/json", c.ContentType)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return "", nil, bodyError("it says it is written in %.32q; write UTF-8", charset)
	}
	return kind, params, nil
}

// isJSON reports whether a body of a media type is read as JSON; one that says none
// is, because servers do.
func isJSON(kind string) bool {
	return kind == "" || kind == "application/json" || kind == "text/json" || strings.HasSuffix(kind, "+json")
}

// ErrBody is what the errors about bodies wrap that cannot be judged safely.
var ErrBody = errors.New("the body cannot be judged safely")

func bodyError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBody, fmt.Sprintf(format, args...))
}
