package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// schemaAnswer is an answer as a vendor's SDK types it, made by sdk/schema.mjs.
type schemaAnswer struct {
	Dialect string
	Kind    string
	Answer  object
}

// schemaAnswers are all of them, by dialect.
func schemaAnswers(t *testing.T) map[string][]schemaAnswer {
	t.Helper()
	needsSDKs(t)
	all, err := madeAnswers()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var madeAnswers = sync.OnceValues(func() (map[string][]schemaAnswer, error) {
	cmd := exec.Command("node", "sdk/schema.mjs")
	endWithTests(cmd)
	out, err := cmd.Output()
	if err != nil {
		if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
			err = fmt.Errorf("%w\n%s", err, failed.Stderr)
		}
		return nil, err
	}
	all := make(map[string][]schemaAnswer)
	for line := range bytes.Lines(out) {
		var a schemaAnswer
		if err := json.Unmarshal(line, &a); err != nil {
			return nil, err
		}
		all[a.Dialect] = append(all[a.Dialect], a)
	}
	return all, nil
})

// wire is how a dialect's answers are used and streamed.
type wire struct {
	vendor string   // the preset
	list   string   // of a request: what was said
	said   []string // where an answer holds what it says
	usage  string   // of an answer
	input  []string // members of usage
	output []string
	total  string
	silent object                     // a usage that tells nothing, where the SDK takes no answer without
	stream func(answer object) string // nil where the SDK puts no streamed answer together
}

var chatWire = wire{list: "messages", said: []string{"choices"}, usage: "usage", input: []string{"prompt_tokens"}, output: []string{"completion_tokens"}, total: "total_tokens"}

// as is the wire of another vendor.
func (w wire) as(vendor string, stream func(object) string) wire {
	w.vendor, w.stream = vendor, stream
	return w
}

var mistralWire = func() wire {
	w := chatWire.as("mistral", nil)
	w.silent = object{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
	return w
}()

var messagesWire = wire{vendor: "anthropic", list: "messages", said: []string{"content"}, usage: "usage", input: []string{"input_tokens"}, output: []string{"output_tokens"}, stream: messagesStream}

var wires = map[string]wire{
	"openai-chat":             chatWire.as("openai", chatStream),
	"openai-responses":        {vendor: "openai", list: "input", said: []string{"output"}, usage: "usage", input: []string{"input_tokens"}, output: []string{"output_tokens"}, total: "total_tokens", stream: responsesStream},
	"anthropic-messages":      messagesWire,
	"anthropic-beta-messages": messagesWire,
	"gemini":                  {vendor: "gemini", list: "contents", said: []string{"candidates"}, usage: "usageMetadata", input: []string{"promptTokenCount"}, output: []string{"candidatesTokenCount"}, total: "totalTokenCount", stream: geminiStream},
	"mistral":                 mistralWire,
	"cohere":                  {vendor: "cohere", list: "messages", said: []string{"message"}, usage: "usage", input: []string{"billed_units.input_tokens", "tokens.input_tokens"}, output: []string{"billed_units.output_tokens", "tokens.output_tokens"}},
	"groq":                    chatWire.as("groq", nil),
	"together":                chatWire.as("together", nil),
	"openrouter":              chatWire.as("openrouter", nil),
	"deepseek":                chatWire.as("deepseek", nil),
	"xai":                     chatWire.as("xai", nil),
	"vllm":                    chatWire.as("vllm", nil),
}

// modes are how a client can ask for an answer that it sends back.
func (w *wire) modes() []string {
	modes := []string{"plain"}
	if w.stream != nil {
		modes = append(modes, "stream")
	}
	if w.list == "input" {
		modes = append(modes, "stored") // the history stays at the vendor
	}
	return modes
}

// reports writes into an answer what it used.
func (w *wire) reports(answer object, input, output int64) {
	usage := answer[w.usage].(object)
	for _, side := range []struct {
		names []string
		n     int64
	}{{w.input, input}, {w.output, output}} {
		for _, name := range side.names {
			in := usage
			if outer, inner, nested := strings.Cut(name, "."); nested {
				in, name = usage[outer].(object), inner
			}
			in[name] = side.n
		}
	}
	if w.total != "" {
		usage[w.total] = input + output
	}
}

func data(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came as JSON
	}
	return "data: " + string(b) + "\n\n"
}

func namedEvent(v object) string { return fmt.Sprintf("event: %s\n%s", v["type"], data(v)) }

// with is a copy of an object in which some members are others.
func with(o object, more object) object {
	c := make(object, len(o)+len(more))
	for name, value := range o {
		c[name] = value
	}
	for name, value := range more {
		c[name] = value
	}
	return c
}

// chatStream has the message in one chunk: each of its tool calls whole, with the
// place that chunks give it.
func chatStream(answer object) string {
	choice := answer["choices"].([]any)[0].(object)
	delta := with(choice["message"].(object), nil)
	if calls, ok := delta["tool_calls"].([]any); ok {
		placed := make([]any, len(calls))
		for i, call := range calls {
			placed[i] = with(call.(object), object{"index": i})
		}
		delta["tool_calls"] = placed
	}
	chunk := with(answer, object{"object": "chat.completion.chunk", "usage": nil})
	said := with(chunk, object{"choices": []object{{"index": 0, "delta": delta, "finish_reason": nil, "logprobs": choice["logprobs"]}}})
	ended := with(chunk, object{"choices": []object{{"index": 0, "delta": object{}, "finish_reason": choice["finish_reason"]}}})
	return data(said) + data(ended) + data(with(chunk, object{"choices": []any{}, "usage": answer["usage"]})) + "data: [DONE]\n\n"
}

func responsesStream(answer object) string {
	begun := with(answer, object{"status": "in_progress", "output": []any{}, "usage": nil})
	s := namedEvent(object{"type": "response.created", "sequence_number": 0, "response": begun})
	for i, item := range answer["output"].([]any) {
		s += namedEvent(object{"type": "response.output_item.added", "sequence_number": 2*i + 1, "output_index": i, "item": item}) +
			namedEvent(object{"type": "response.output_item.done", "sequence_number": 2*i + 2, "output_index": i, "item": item})
	}
	return s + namedEvent(object{"type": "response.completed", "sequence_number": 99, "response": answer})
}

// messagesStream has each block begin as those of its kind do: texts, thoughts and
// inputs of tools come in deltas, and all else with the block.
func messagesStream(answer object) string {
	s := namedEvent(object{"type": "message_start", "message": with(answer, object{"content": []any{}, "stop_reason": nil, "stop_sequence": nil})})
	for i, value := range answer["content"].([]any) {
		block := value.(object)
		delta := func(kind, name string, value any) string {
			return namedEvent(object{"type": "content_block_delta", "index": i, "delta": object{"type": kind, name: value}})
		}
		first, more := block, ""
		switch block["type"] {
		case "text":
			first = with(block, object{"text": "", "citations": nil})
			more = delta("text_delta", "text", block["text"])
			if citations, ok := block["citations"].([]any); ok {
				first["citations"] = []any{}
				for _, citation := range citations {
					more += delta("citations_delta", "citation", citation)
				}
			}
		case "thinking":
			first = with(block, object{"thinking": "", "signature": ""})
			more = delta("thinking_delta", "thinking", block["thinking"]) + delta("signature_delta", "signature", block["signature"])
		case "tool_use", "server_tool_use", "mcp_tool_use":
			first = with(block, object{"input": object{}})
			input, err := json.Marshal(block["input"])
			if err != nil {
				panic(err) // it came as JSON
			}
			more = delta("input_json_delta", "partial_json", string(input))
		}
		s += namedEvent(object{"type": "content_block_start", "index": i, "content_block": first}) + more + namedEvent(object{"type": "content_block_stop", "index": i})
	}
	s += namedEvent(object{"type": "message_delta", "delta": object{"stop_reason": answer["stop_reason"], "stop_sequence": nil}, "usage": answer["usage"]})
	return s + namedEvent(object{"type": "message_stop"})
}

// geminiStream has all of an answer in one chunk: a part is never divided but
// between texts.
func geminiStream(answer object) string { return data(answer) }
