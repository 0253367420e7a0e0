package upstream

import "strings"

// ownTools are the types of tools that clients run, of OpenAI and of those that
// copy it.
var ownTools = set("function", "custom", "local_shell", "apply_patch")

// tools allows those that the client runs itself.
func (p *Preset) tools(value []byte, native bool, found *content) error {
	if value[0] != '[' {
		return unsafe("tools must be a list")
	}
	return elements(value, func(tool []byte) error {
		if tool[0] != '{' {
			return unsafe("a tool must be an object")
		}
		kind := ""
		var seen fieldSet
		err := rawObject(tool).members(func(name string, value []byte) error {
			switch {
			case seen.add(name):
				return unsafe("the field %.64q stands twice in a tool", name)
			case name == "type" && value[0] == '"':
				kind, _ = text(value) // one that is not well formed is no kind known
			case name != "type" && sameField(name, "type"):
				return unsafe("a tool has a field %.64q; write type", name)
			case name == "cache_control" && value[0] == '{':
				found.cached = true
				found.walk(value, name, 1)
			case native && !sameField(name, "functionDeclarations"):
				return notMeterable("tool %.64q runs at the provider", name)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, own := range []string{"bash_", "text_editor_", "computer_", "memory_"} {
			if p.Dialect == Anthropic && strings.HasPrefix(kind, own) {
				return nil
			}
		}
		if kind == "" || ownTools[kind] {
			return nil
		}
		return notMeterable("a tool of type %.64q may run at the provider", kind)
	})
}

// contextEdits allows those of Anthropic's context_management that only take
// something away. Others let a model write a summary, which is billed.
func contextEdits(value []byte) error {
	if value[0] != '{' {
		return notMeterable("what context_management costs is not known")
	}
	return rawObject(value).members(func(name string, value []byte) error {
		if name != "edits" || value[0] != '[' {
			return notMeterable("what %.64q in context_management costs is not known", name)
		}
		return elements(value, func(edit []byte) error {
			kind := ""
			if edit[0] == '{' {
				var seen fieldSet
				if err := rawObject(edit).members(func(name string, value []byte) error {
					if seen.add(name) {
						return unsafe("the field %.64q stands twice in an edit", name)
					}
					if name == "type" && value[0] == '"' {
						kind, _ = text(value) // one that is not well formed is no kind known
					}
					return nil
				}); err != nil {
					return err
				}
			}
			if !strings.HasPrefix(kind, "clear_") {
				return notMeterable("what an edit of type %.64q costs is not known", kind)
			}
			return nil
		})
	})
}
