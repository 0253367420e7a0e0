package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// ownTool is a tool that the client runs.
type ownTool struct {
	name, space string
	freeform    bool // takes text, not an object
	fields      map[string]any
	required    []string
}

// call is what the model wants to have run.
type call struct {
	id          string
	name, space string
	arguments   object
}

// toolsIn finds the tools of the client, nested and deferred as they may be.
func toolsIn(v any, space string, found []ownTool) []ownTool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			found = toolsIn(e, space, found)
		}
	case map[string]any:
		name, _ := v["name"].(string)
		for _, at := range []string{"input_schema", "parameters", "parametersJsonSchema", "inputSchema"} {
			if schema, ok := v[at].(map[string]any); ok && name != "" {
				d := ownTool{name: name, space: space}
				d.fields, _ = schema["properties"].(map[string]any)
				required, _ := schema["required"].([]any)
				for _, r := range required {
					d.required = append(d.required, fmt.Sprint(r))
				}
				return append(found, d)
			}
		}
		switch {
		case v["type"] == "custom" && v["format"] != nil:
			return append(found, ownTool{name: name, space: space, freeform: true})
		case v["type"] == "namespace":
			space = name
		case v["type"] == "message":
			return found
		}
		for _, at := range []string{"tools", "function", "functionDeclarations", "function_declarations"} {
			found = toolsIn(v[at], space, found)
		}
	}
	return found
}

func (t *asked) tool(names []string) (ownTool, bool) {
	for _, name := range names {
		if i := slices.IndexFunc(t.tools, func(d ownTool) bool { return d.name == name && !d.freeform }); i >= 0 {
			return t.tools[i], true
		}
	}
	return ownTool{}, false
}

// calls are what the model wants next; none when it is done.
func (t *asked) calls() ([]call, error) {
	if t.errand == "" || len(t.tools) == 0 {
		return nil, nil // a title, or a classification
	}
	done := t.results
	if t.work == workParallel && done > 0 {
		done-- // two of them came in one turn
	}
	if done >= t.turns {
		return nil, nil
	}
	files := []string{fmt.Sprintf("%s/%d.txt", t.dir, t.results)}
	names, command := readers, "cat"
	switch {
	case done > 0:
	case t.work == workPicture:
		names, files = pictures, []string{t.dir + "/picture.png"}
	case t.work == workParallel:
		files = append(files, fmt.Sprintf("%s/%d.txt", t.dir, t.results+1))
	case t.work == workShell:
		names, command = nil, "env; cat"
	}
	var all []call
	for i, file := range files {
		tool, ok := t.tool(names)
		if !ok {
			tool, ok = t.tool(shells)
		}
		if !ok {
			return nil, fmt.Errorf("%s: none of the client's tools reads a file: %v", t.errand, t.tools)
		}
		all = append(all, call{fmt.Sprintf("%d", t.results+i), tool.name, tool.space, tool.argumentsFor(file, command+" "+file)})
	}
	return all, nil
}

// argumentsFor fills in what a tool requires, and what it is called for.
func (d ownTool) argumentsFor(file, command string) object {
	args := object{}
	fill := func(name string) {
		field, _ := d.fields[name].(map[string]any)
		lower := strings.ToLower(name)
		var value any
		switch {
		case strings.Contains(lower, "path") || lower == "file":
			value = file
		case lower == "files":
			value = object{"path": file}
		case lower == "cmd" || strings.HasPrefix(lower, "command"):
			value = command
		case field["type"] == "boolean":
			value = false
		case field["type"] == "number" || field["type"] == "integer":
			value = 20_000
		default:
			value = "reads"
		}
		if field["type"] == "array" {
			value = []any{value}
		}
		args[name] = value
	}
	for _, name := range d.required {
		fill(name)
	}
	if len(args) == 0 || d.required == nil {
		for _, name := range []string{"file_path", "filePath", "path", "cmd", "command", "files", "commands"} {
			if _, ok := d.fields[name]; ok {
				fill(name)
				break
			}
		}
	}
	return args
}

// saying is what the model says at the end: whether all that it had asked for
// came back.
func (t *asked) saying() string {
	if t.errand == "" || len(t.tools) == 0 {
		return `{"reasoning":"short","complexity_reasoning":"short","complexity_score":1,"model_choice":"flash","title":"errand"}`
	}
	want := t.results
	if t.work == workPicture {
		want--
		if !bytes.Contains(t.body, []byte(pngMark)) {
			return lostSaying
		}
	}
	leaves := 0
	for i := range t.results + 1 {
		if bytes.Contains(t.body, []byte(leafOf(t.errand, i))) {
			leaves++
		}
	}
	if leaves < want || t.results == 0 {
		return lostSaying
	}
	return doneSaying
}

// leafOf is what stands in an errand's file.
func leafOf(errand string, i int) string { return fmt.Sprintf("%s%s-%d.", leafMark, errand, i) }
