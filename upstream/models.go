package upstream

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
)

const (
	maxModels    = 64  // how many models one request may name
	maxModelName = 256 // bytes
	// maxModelDepth bounds how deep objects that name models may be nested: at each
	// level the end of everything below it is searched.
	maxModelDepth = 16
)

// Models returns every model that a request names, each once: in its path, in its
// query and in its body, including fallbacks and the models of tools. named is false
// if the request does not say which model is to answer. A body that two readers could
// read differently is an error that wraps ErrBody.
func (p *Preset) Models(c *Call) (models []string, named bool, err error) {
	f := modelFinder{preset: p}
	if model, ok := p.pathModel(c.Path); ok {
		f.add(model)
		f.named = true
	}
	if err := f.query(c.Query); err != nil {
		return nil, false, err
	}
	if len(c.Body) > 0 {
		if err := f.body(c); err != nil {
			return nil, false, err
		}
	}
	for _, model := range f.models {
		if model == "" || len(model) > maxModelName || strings.ContainsFunc(model, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return nil, false, bodyError("a model's name must be from 1 to %d bytes without spaces, got %.64q", maxModelName, model)
		}
	}
	if len(f.models) > maxModels {
		return nil, false, bodyError("a request may name %d models, and this names %d", maxModels, len(f.models))
	}
	return f.models, f.named, nil
}

// pathModel returns the model in a path such as /v1beta/models/NAME:generateContent
// or /v1/models/NAME, or, as old clients and Azure write it,
// /v1/engines/NAME/completions.
func (p *Preset) pathModel(path string) (string, bool) {
	for _, collection := range []string{"/engines/", "/deployments/"} {
		if _, rest, ok := strings.Cut(path, collection); ok && rest != "" {
			name, _, _ := strings.Cut(rest, "/")
			return name, true
		}
	}
	for _, collection := range []string{"models", "tunedModels"} {
		_, rest, ok := strings.Cut(path, "/"+collection+"/")
		if !ok || rest == "" {
			continue
		}
		if p.Dialect == Gemini {
			rest, _, _ = strings.Cut(rest, ":")
		}
		if collection == "tunedModels" {
			rest = "tunedModels/" + rest
		}
		return rest, true
	}
	return "", false
}

type modelFinder struct {
	preset *Preset
	models []string
	named  bool
	depth  int
}

func (f *modelFinder) nested(fn func() error) error {
	if f.depth++; f.depth > maxModelDepth {
		return bodyError("what names models in it is nested more than %d deep", maxModelDepth)
	}
	defer func() { f.depth-- }()
	return fn()
}

func (f *modelFinder) add(model string) {
	if f.preset.Dialect == Gemini {
		model = strings.TrimPrefix(model, "models/") // Google writes names with and without it
	}
	// A model that is named twice is added once: Gemini's batches name it in the path
	// and in each of their requests.
	if len(f.models) <= maxModels && !slices.Contains(f.models, model) {
		f.models = append(f.models, model)
	}
}

// query finds models in the query. They do not count as named, because most upstreams
// do not look there.
func (f *modelFinder) query(raw string) error {
	if !strings.Contains(strings.ToLower(raw), "model") && !strings.Contains(raw, "%") {
		return nil
	}
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return bodyError("the query is not well formed")
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return bodyError("the query is not well formed")
		}
		if sameField(name, "model") || sameField(name, "models") {
			f.add(value)
		}
	}
	return nil
}

func (f *modelFinder) body(c *Call) error {
	kind, params, err := c.written()
	if err != nil {
		return err
	}
	switch {
	case kind == "multipart/form-data":
		return f.form(c.Body, params["boundary"])
	case isJSON(kind):
		if _, err := c.object(); err != nil {
			return err
		}
		var seen fieldSet
		for name, value := range c.members {
			if err := f.member(&seen, name, value); err != nil {
				return err
			}
		}
		return nil
	}
	return bodyError("no model can be read from a body of type %.64q; send application/json", kind)
}

// inBodies are the fields that are looked at. Each may occur once, and no other may
// look like it: of two such fields, two readers may take different ones.
var inBodies = []string{"model", "models", "tools", "plugins", "preset", "requests", "generateContentRequest"}

// inBodiesFolded maps a field's folded name to its spelling.
var inBodiesFolded = func() map[string]string {
	m := make(map[string]string)
	for _, field := range inBodies {
		m[folded(field)] = field
	}
	return m
}()

func (f *modelFinder) object(o rawObject) error {
	var seen fieldSet
	for name, value := range o.members {
		if err := f.member(&seen, name, value); err != nil {
			return err
		}
	}
	return nil
}

func (f *modelFinder) member(seen *fieldSet, name string, value []byte) error {
	fold := folded(name)
	field, ruled := inBodiesFolded[fold]
	switch {
	case ruled && name != field && !(field == "generateContentRequest" && name == "generate_content_request"):
		return bodyError("it has a field %.64q; write %q", name, field)
	case !ruled && !foldsToModel(fold):
		return nil
	case seen.add(name):
		return bodyError("the field %q stands twice", name)
	case name == "model":
		if value[0] == 'n' {
			return nil // null: not given
		}
		if value[0] != '"' {
			return bodyError("model must be text")
		}
		f.named = true
		return f.value(value)
	case name == "models":
		before := len(f.models)
		err := f.value(value)
		f.named = f.named || len(f.models) > before
		return err
	case name == "tools" || name == "plugins":
		return f.each(value, f.tool)
	case name == "preset":
		// A preset is OpenRouter's name for stored settings, which may choose a
		// model.
		if value[0] != 'n' {
			return bodyError("a preset may choose another model; leave it out")
		}
		return nil
	case name == "requests" && f.preset.Dialect == Gemini:
		return f.each(value, f.object)
	case sameField(name, "generateContentRequest"):
		if value[0] != '{' {
			return nil
		}
		return f.nested(func() error { return f.object(rawObject(value)) })
	}
	return f.value(value)
}

// each calls fn for the objects in a list.
func (f *modelFinder) each(value []byte, fn func(rawObject) error) error {
	if value[0] != '[' {
		return nil
	}
	for element := range rawList(value).elements {
		if element[0] != '{' {
			continue
		}
		if err := f.nested(func() error { return fn(rawObject(element)) }); err != nil {
			return err
		}
	}
	return nil
}

// tool finds the models that a tool or plugin works with.
func (f *modelFinder) tool(o rawObject) error {
	var seen fieldSet
	for name, value := range o.members {
		switch {
		case sameField(name, "parameters") && value[0] == '{':
			// These are parameters of a provider's own tool. In the JSON Schema of a
			// function, no member at this level has a name with "model" in it.
			for name, value := range rawObject(value).members {
				if !holdsModel(name) {
					continue
				}
				if err := f.value(value); err != nil {
					return err
				}
			}
			continue
		case !holdsModel(name):
			continue
		case seen.add(name):
			return bodyError("the field %.64q stands twice in a tool", name)
		}
		if err := f.value(value); err != nil {
			return err
		}
	}
	return nil
}

// holdsModel reports whether a field may name a model: model, models, safety_model,
// fallback_models, and whatever is added later.
func holdsModel(name string) bool { return foldsToModel(folded(name)) }

func foldsToModel(fold string) bool {
	return strings.Contains(fold, "model") || fold == "fallbacks"
}

// value adds a model, or each model of a list, given as text or as an object with a
// model. Any other value names none.
func (f *modelFinder) value(value []byte) error {
	switch value[0] {
	case '"':
		f.add(strings.Clone(view(value)))
	case '[':
		for element := range rawList(value).elements {
			err := f.nested(func() error {
				if element[0] == '{' {
					return f.tool(rawObject(element))
				}
				return f.value(element)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// form finds the model in a form with files, which is how audio and images are sent.
// The form must be so plain that there is only one way to read it.
func (f *modelFinder) form(body []byte, boundary string) error {
	if boundary == "" || len(boundary) > 70 || !bytes.HasPrefix(body, []byte("--"+boundary+"\r\n")) {
		return bodyError("the form does not begin with its boundary")
	}
	end := bytes.LastIndex(body, []byte("\r\n--"+boundary+"--"))
	if end < 0 || len(bytes.Trim(body[end+len("\r\n--")+len(boundary)+len("--"):], "\r\n")) != 0 {
		return bodyError("the form does not end with its boundary")
	}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for parts := 0; ; parts++ {
		part, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			// Other readers accept less than a complete line end before a boundary,
			// so there must be no boundaries but those seen here.
			if bytes.Count(body, []byte("--"+boundary)) != parts+1 {
				return bodyError("the form holds its boundary where none is due")
			}
			return nil
		}
		if err != nil {
			return bodyError("the form is not well formed")
		}
		name, err := partName(part)
		if err != nil {
			return err
		}
		if !holdsModel(name) {
			continue
		}
		if name != "model" || f.named || part.FileName() != "" {
			return bodyError("a form names its model in one field %q, and this has %.64q", "model", name)
		}
		value, err := io.ReadAll(io.LimitReader(part, maxModelName+1))
		if err != nil {
			return bodyError("the form is not well formed")
		}
		f.add(string(value))
		f.named = true
	}
}

// partName returns the name of a form's field if it is unambiguous.
func partName(part *multipart.Part) (string, error) {
	for header, values := range part.Header {
		if len(values) != 1 || header != "Content-Disposition" && header != "Content-Type" {
			return "", bodyError("a part of the form has the header %.64q", header)
		}
	}
	disposition := part.Header.Get("Content-Disposition")
	kind, params, err := mime.ParseMediaType(disposition)
	if err != nil || kind != "form-data" || params["name"] == "" || strings.Contains(disposition, "name*") && !strings.Contains(disposition, "filename*") ||
		strings.Count(strings.ReplaceAll(strings.ToLower(disposition), "filename", ""), "name") != 1 {
		return "", bodyError("a part of the form has no plain name")
	}
	for _, r := range params["name"] {
		if r <= ' ' || r > '~' || strings.ContainsRune(`"\%;`, r) {
			return "", bodyError("a part of the form has the name %.64q", params["name"])
		}
	}
	return params["name"], nil
}
