package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// stripped is the name of a tool that is removed from requests, and its folded form.
type stripped struct{ name, folded string }

// maxStripped bounds how many tools an operator may name.
const maxStripped = 64

// strips parses the names of tools that are removed from requests.
func strips(names []string) (all []stripped, err error) {
	if len(names) > maxStripped {
		return nil, fmt.Errorf("strip_tools takes at most %d names, got %d", maxStripped, len(names))
	}
	for _, name := range names {
		if name == "" || len(name) > maxAllowName || !isToken(strings.ReplaceAll(name, ":", "_")) {
			return nil, fmt.Errorf("strip_tools takes names of 1 to %d letters, digits, -, : and _, got %.80q", maxAllowName, name)
		}
		if ownTools[name] || sameField(name, "functionDeclarations") {
			return nil, fmt.Errorf("strip_tools %s: clients run such tools themselves; leave it out", name)
		}
		all = append(all, stripped{name, fold(name)})
	}
	return all, nil
}

// searchFields are members of requests that request a search without a tool: OpenAI's
// and OpenRouter's chat completions
// (platform.openai.com/docs/api-reference/chat/create), and xAI's
// (docs.x.ai/docs/guides/live-search).
var searchFields = set(fold("web_search_options"), fold("search_parameters"))

// maxToolDepth bounds how deep lists of tools may be nested.
const maxToolDepth = 8

// errInsists is about requests that are useless without a removed tool.
var errInsists = errors.New("its tool_choice insists on one that is; leave that out")

// Strips reports whether tools are removed from requests for a path.
func (p *Preset) Strips(method, path string) bool {
	return len(p.strips) > 0 && method == "POST" && p.asksModel(path)
}

// Strip removes from a request the tools that its upstream must not run, and the
// members that concern only them, and leaves every other byte as it is. It reports
// whether there were any.
func (p *Preset) Strip(c *Call) (changed bool, err error) {
	if len(c.Body) == 0 {
		return false, nil
	}
	kind, _, err := c.written()
	if err != nil {
		return false, err
	}
	if !isJSON(kind) {
		return false, bodyError("no tools can be read from a body of type %.64q; send application/json", kind)
	}
	o, err := c.object()
	if err != nil {
		return false, err
	}
	s := stripping{preset: p, native: p.Dialect == Gemini && strings.Contains(c.Path, ":"), body: c.Body}
	if err := s.request(o); err != nil || len(s.cuts) == 0 {
		return false, err
	}
	c.Body, c.parsed, c.outline = s.rest(), nil, nil
	return true, nil
}

type stripping struct {
	preset *Preset
	native bool // the request is in Gemini's own form
	body   []byte
	cuts   []span
	taken  []string // the operator's names of the removed tools
	called []string // the request's names for them
	left   int      // how many tools stay
	depth  int
}

// span is a part of the body.
type span struct{ from, to int }

// at returns where a part of the body begins.
func (s *stripping) at(part []byte) int { return cap(s.body) - cap(part) }

func (s *stripping) rest() []byte {
	slices.SortFunc(s.cuts, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out, done := make([]byte, 0, len(s.body)), 0
	for _, cut := range s.cuts {
		out = append(out, s.body[done:cut.from]...)
		done = cut.to
	}
	return append(out, s.body[done:]...)
}

// filter cuts elements of a list, or members of an object, out of the body, each with
// a comma beside it. If none would be left it cuts nothing and reports that, because
// the whole list or object has to go.
func (s *stripping) filter(whole []byte, drop func(name string, value []byte) (bool, error)) (emptied bool, err error) {
	mark := len(s.cuts)
	kept, cutting := -1, span{-1, -1} // the end of the last kept element; the pending cut
	b := whole[1:]
	for {
		b = b[spaces(b):]
		if b[0] == ']' || b[0] == '}' {
			break
		}
		from, name := s.at(b), ""
		if whole[0] == '{' {
			n := skipString(b)
			name = view(b[:n])
			b = b[n:]
			b = b[spaces(b):]
		}
		n := skipValue(b)
		dropped, err := drop(name, b[:n])
		if err != nil {
			return false, err
		}
		b = b[n:]
		switch end := s.at(b); {
		case dropped && cutting.from < 0 && kept >= 0:
			cutting = span{kept, end}
		case dropped && cutting.from < 0:
			cutting = span{from, end}
		case dropped:
			cutting.to = end
		default:
			if cutting.from >= 0 && kept < 0 {
				cutting.to = from
			}
			if cutting.from >= 0 {
				s.cuts = append(s.cuts, cutting)
			}
			kept, cutting = end, span{-1, -1}
		}
	}
	switch {
	case cutting.from < 0:
		return false, nil
	case kept < 0:
		s.cuts = s.cuts[:mark]
		return true, nil
	}
	s.cuts = append(s.cuts, cutting)
	return false, nil
}

// request removes tools from a request, and then the members that refer to them.
func (s *stripping) request(o rawObject) error {
	var gone []string // members to remove as a whole
	var seen fieldSet
	for name, value := range o.members {
		drop := s.tool
		switch plain := fold(name); {
		case plain == "tools":
			if s.native {
				drop = s.nativeTool
			}
		case plain == "input":
			drop = s.item
		case plain == "plugins" && s.preset.Name == "openrouter":
			drop = s.plugin
		case searchFields[plain]:
			if s.word("web_search") != "" {
				gone = append(gone, name)
			}
			continue
		default:
			continue
		}
		if name != fold(name) {
			return bodyError("it has a field %.64q; write %s", name, fold(name))
		}
		if seen.add(name) {
			return bodyError("the field %.64q stands twice", name)
		}
		if value[0] != '[' {
			continue
		}
		switch emptied, err := s.filter(value, drop); {
		case err != nil:
			return err
		case emptied && name == "input":
			return bodyError("nothing is left of its input without the tools that are taken out; send something to answer")
		case emptied:
			gone = append(gone, name)
		}
	}
	if len(s.taken) == 0 {
		return nil
	}
	emptied, err := s.filter(o, func(name string, value []byte) (bool, error) {
		switch {
		case slices.Contains(gone, name):
			return true, nil
		case name == "tool_choice":
			return s.choice(value)
		case name == "include" && value[0] == '[':
			return s.filter(value, s.included)
		case name == "parallel_tool_calls" || name == "toolConfig" || name == "tool_config":
			return s.left == 0, nil // vendors refuse these members without tools
		}
		return false, nil
	})
	if emptied {
		return bodyError("nothing is left of it without the tools that are taken out; send something to answer")
	}
	return err
}

// word returns the operator's name for a type of tool, if that is to be removed. The
// type may end in a date.
func (s *stripping) word(kind string) string {
	plain := fold(kind)
	for _, w := range s.preset.strips {
		if rest, ok := strings.CutPrefix(plain, w.folded); ok && strings.Trim(rest, "0123456789") == "" {
			s.taken = append(s.taken, w.name)
			return w.name
		}
	}
	return ""
}

// description is what matters about a tool, or about an object that holds tools.
type description struct {
	kind, name string
	tools      []byte
}

func describe(o rawObject) (d description, err error) {
	var seen fieldSet
	for name, value := range o.members {
		field := ""
		for _, f := range [...]string{"type", "name", "tools"} {
			if sameField(name, f) {
				field = f
			}
		}
		switch {
		case field == "":
		case field != name:
			return d, bodyError("a tool has a field %.64q; write %s", name, field)
		case seen.add(name):
			return d, bodyError("the field %.64q stands twice in a tool", name)
		case field == "tools" && value[0] == '[':
			d.tools = value
		case field == "type":
			d.kind = word(value)
		case field == "name":
			d.name = word(value)
		}
	}
	return d, nil
}

// tool reports whether a tool is to be removed, and removes those nested in it.
func (s *stripping) tool(_ string, tool []byte) (bool, error) {
	if tool[0] != '{' {
		return false, nil
	}
	d, err := describe(rawObject(tool))
	if err != nil {
		return false, err
	}
	if s.word(d.kind) != "" {
		s.called = append(s.called, d.name)
		return true, nil
	}
	if d.tools == nil {
		s.left++
		return false, nil
	}
	return s.nestedTools(d.tools)
}

func (s *stripping) nestedTools(tools []byte) (emptied bool, err error) {
	if s.depth++; s.depth > maxToolDepth {
		return false, bodyError("tools are nested more than %d deep", maxToolDepth)
	}
	defer func() { s.depth-- }()
	return s.filter(tools, s.tool)
}

// item removes tools from items of the Responses API's input that may hold them:
// "additional_tools", "tool_search_output".
func (s *stripping) item(_ string, item []byte) (bool, error) {
	if item[0] != '{' {
		return false, nil
	}
	d, err := describe(rawObject(item))
	if err != nil || d.tools == nil {
		return false, err
	}
	return s.nestedTools(d.tools)
}

// nativeTool removes members from an entry of Gemini's tools, where each member is a
// tool.
func (s *stripping) nativeTool(_ string, tool []byte) (bool, error) {
	if tool[0] != '{' {
		return false, nil
	}
	return s.filter(tool, func(name string, _ []byte) (bool, error) {
		if s.word(name) != "" {
			return true, nil
		}
		s.left++
		return false, nil
	})
}

// plugin reports whether one of OpenRouter's plugins is to be removed.
func (s *stripping) plugin(_ string, plugin []byte) (gone bool, err error) {
	if plugin[0] != '{' {
		return false, nil
	}
	for name, value := range rawObject(plugin).members {
		gone = gone || sameField(name, "id") && value[0] == '"' && s.word(view(value)) != ""
	}
	return gone, nil
}

// choice reports whether a tool_choice is to be removed with the tools, and refuses
// one that insists on a removed tool: an answer without it is not what the client
// asked for.
func (s *stripping) choice(value []byte) (bool, error) {
	d := description{}
	var err error
	switch value[0] {
	case '"':
		d.kind = view(value)
	case '{':
		d, err = describe(rawObject(value))
	}
	switch {
	case err != nil:
		return false, err
	case s.word(d.kind) != "", d.kind == "tool" && slices.Contains(s.called, d.name):
		return false, errInsists
	case s.left == 0 && d.kind != "auto" && d.kind != "none" && value[0] != 'n':
		return false, errInsists
	case s.left == 0:
		return true, nil
	case d.tools == nil:
		return false, nil
	}
	emptied, err := s.filter(d.tools, s.tool)
	if emptied {
		return false, errInsists
	}
	return false, err
}

// included reports whether an entry of include requests a part of the answer that
// only a removed tool provides, such as "web_search_call.results".
func (s *stripping) included(_ string, value []byte) (bool, error) {
	return slices.ContainsFunc(s.taken, func(name string) bool {
		return strings.HasPrefix(word(value), strings.TrimSuffix(name, "_preview")+"_call.")
	}), nil
}
