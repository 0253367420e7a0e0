package upstream

import "strings"

// ownTools are OpenAI's types of tools that clients run, which other vendors copy.
var ownTools = set("function", "custom", "local_shell", "apply_patch")

// runsAtClient reports whether tools of a type are run by the client, or by nobody,
// like those that only describe how others are found.
func (s shape) runsAtClient(kind string) bool {
	if kind == "" || ownTools[kind] {
		return true
	}
	switch s {
	case responsesShape:
		return kind == "computer" || kind == "computer_use_preview"
	case messagesShape:
		name, version := kind, ""
		if i := strings.LastIndexByte(kind, '_'); i >= 0 {
			name, version = kind[:i], kind[i+1:]
		}
		if len(version) != len("20260801") || strings.Trim(version, "0123456789") != "" {
			return false
		}
		switch name {
		case "bash", "text_editor", "computer", "memory", "computer_toolset", "browser_toolset":
			return true
		}
	}
	return false
}

// nativeTools are the folded names of the tools that run at Google (interface Tool of
// @google/genai 2.32.0). Gateways accept them in the lists of other APIs, too
// (https://docs.litellm.ai/docs/providers/gemini#google-search-tool).
var nativeTools = set("googlesearch", "googlesearchretrieval", "enterprisewebsearch", "parallelaisearch", "googlemaps", "urlcontext", "codeexecution",
	"filesearch", "retrieval", "computeruse", "mcpservers")

// tools allows the tools that the client runs itself.
func (p *Preset) tools(value []byte, native bool, found *content) error {
	return p.toolsIn(value, native, found, false)
}

// toolsIn is tools for a list that may be in a namespace.
func (p *Preset) toolsIn(value []byte, native bool, found *content, grouped bool) error {
	if value[0] != '[' {
		return bodyError("tools must be a list")
	}
	for tool := range rawList(value).elements {
		if tool[0] != '{' {
			return bodyError("a tool must be an object")
		}
		var kind, execution string
		described := native // the tool has a name, or is a function
		var group, environment []byte
		var seen fieldSet
		for name, value := range rawObject(tool).members {
			switch {
			case seen.add(name):
				return bodyError("the field %.64q stands twice in a tool", name)
			case !native && nativeTools[folded(name)]:
				return notMeterable("tool %.64q may run at the provider", name)
			case name == "type" && value[0] == '"':
				kind = view(value)
			case name != "type" && sameField(name, "type"):
				return bodyError("a tool has a field %.64q; write type", name)
			case name == "cache_control" && value[0] == '{':
				found.cached = true
				found.walk(value, name, unknown, 1)
			case !native && sameField(name, "prompt_cache_breakpoint"):
				if err := found.cacheLifetime(name, value); err != nil {
					return err
				}
			case native && sameField(name, "computerUse"):
				found.toolset()
			case native && !sameField(name, "functionDeclarations"):
				return notMeterable("tool %.64q runs at the provider", name)
			case name == "name", name == "function":
				described = true
			case name == "execution":
				execution = word(value)
			case name == "environment":
				environment = value
			case name == "tools":
				group = value
			case name == "defer_loading" && value[0] == 't':
				found.deferred = true
			}
		}
		switch {
		case kind == "" && !described:
			return notMeterable("a tool without a name may run at the provider")
		case found.shape.runsAtClient(kind):
			if strings.HasPrefix(kind, "computer") || strings.HasPrefix(kind, "browser") {
				found.toolset()
			}
		case found.shape == messagesShape && isToolSearch(kind):
			found.searches = true
		case found.shape == responsesShape && !grouped && kind == "namespace" && group != nil:
			if err := p.toolsIn(group, native, found, true); err != nil {
				return err
			}
		case found.shape == responsesShape && !grouped && (kind == "tool_search" && execution == "client" || kind == "shell" && isLocal(environment)):
		default:
			return notMeterable("a tool of type %.64q may run at the provider", kind)
		}
	}
	return nil
}

// isToolSearch reports whether a tool makes the provider search among the other tools
// of the request. This is free, and what it can find is in the request.
func isToolSearch(kind string) bool {
	kind = strings.TrimSuffix(kind, "_20251119")
	return kind == "tool_search_tool_regex" || kind == "tool_search_tool_bm25"
}

func isLocal(environment []byte) bool {
	kind, err := typeOf(environment, "an environment")
	return err == nil && kind == "local"
}

// typeOf returns the type of an object; "" if the type is not text, or if value is not
// an object. what names the object in errors.
func typeOf(value []byte, what string) (kind string, err error) {
	if len(value) == 0 || value[0] != '{' {
		return "", nil
	}
	var seen fieldSet
	for name, value := range rawObject(value).members {
		if seen.add(name) {
			return "", bodyError("the field %.64q stands twice in %s", name, what)
		}
		if name == "type" {
			kind = word(value)
		}
	}
	return kind, nil
}

// contextEdits allows the edits of Anthropic's context_management that only remove
// something. Others make a model write a summary, which is billed.
func contextEdits(value []byte) error {
	if value[0] != '{' {
		return notMeterable("what context_management costs is not known")
	}
	for name, value := range rawObject(value).members {
		if name != "edits" || value[0] != '[' {
			return notMeterable("what %.64q in context_management costs is not known", name)
		}
		for edit := range rawList(value).elements {
			kind, err := typeOf(edit, "an edit")
			if err != nil {
				return err
			}
			if !strings.HasPrefix(kind, "clear_") {
				return notMeterable("what an edit of type %.64q costs is not known", kind)
			}
		}
	}
	return nil
}
