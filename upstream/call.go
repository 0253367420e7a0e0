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
	Features    string // the API features that its headers select
	Body        []byte

	parsed  rawObject // the body, once it is known to be an object
	outline *outline  // the body's outline
}

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

func (c *Call) fields() []field {
	if !c.outline.whole() {
		return c.parsed.fields()
	}
	return c.outline.fields
}

func (c *Call) members(yield func(name string, value []byte) bool) {
	if !c.outline.whole() {
		c.parsed.members(yield)
		return
	}
	for _, f := range c.outline.fields {
		if !yield(f.name, f.value) {
			return
		}
	}
}

// written returns the media type of the body and its parameters, both empty if there is
// no Content-Type. A body that is encoded, or in a charset other than UTF-8, could be
// read differently, and is an error.
func (c *Call) written() (kind string, params map[string]string, err error) {
	if c.Encoding != "" && !strings.EqualFold(c.Encoding, "identity") {
		return "", nil, bodyError("it is encoded as %.32q; send it as it is", c.Encoding)
	}
	switch c.ContentType {
	case "", "application/json":
		return c.ContentType, nil, nil // the common case
	}
	if kind, params, err = mime.ParseMediaType(c.ContentType); err != nil {
		return "", nil, bodyError("its Content-Type %.64q is not well formed; write application/json", c.ContentType)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return "", nil, bodyError("it says it is written in %.32q; write UTF-8", charset)
	}
	return kind, params, nil
}

// isJSON reports whether a body of that media type is read as JSON. A body without a
// media type is, because servers read it as JSON.
func isJSON(kind string) bool {
	return kind == "" || kind == "application/json" || kind == "text/json" || strings.HasSuffix(kind, "+json")
}

// ErrBody is wrapped by the errors about bodies that two readers could read
// differently.
var ErrBody = errors.New("the body cannot be judged safely")

func bodyError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBody, fmt.Sprintf(format, args...))
}
