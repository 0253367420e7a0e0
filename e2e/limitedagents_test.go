package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// director stands in for a vendor whose model has the agent use its tools one
// after the other, and whose answers have every field that the vendor's types
// have for them.
type director struct {
	*httptest.Server
	dir   string
	said  atomic.Int64
	faces func(*director, *directed) []object // what the model says next
	shape func(http.ResponseWriter, string, []object)
}

// directed is what an agent has sent so far.
type directed struct {
	Model  string `json:"model"`
	Input  []struct{ Type string }
	body   string
	called int // tools that have answered
}

func (d *directed) has(tool string) bool { return strings.Contains(d.body, `"name":"`+tool+`"`) }

func newDirector(t *testing.T, dir string, faces func(*director, *directed) []object, shape func(http.ResponseWriter, string, []object)) *director {
	t.Helper()
	d := &director{dir: dir, faces: faces, shape: shape}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // who asks went away before it had asked
		}
		var asks directed
		switch {
		case r.Method != http.MethodPost:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"object":"list","data":[]}`)
			return
		case strings.HasSuffix(r.URL.Path, "_tokens"):
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"object":"response.input_tokens","input_tokens":%d}`, len(body)/4)
			return
		case !isTurn(r.URL.Path), json.Unmarshal(body, &asks) != nil:
			http.NotFound(w, r)
			return
		}
		d.said.Add(1)
		asks.body = string(body)
		asks.called = strings.Count(asks.body, `"type":"tool_result"`)
		for _, item := range asks.Input {
			if strings.HasSuffix(item.Type, "_output") {
				asks.called++
			}
		}
		w.Header().Set("Content-Type", "text/event-stream")
		shape(w, asks.Model, faces(d, &asks))
	}))
	t.Cleanup(func() {
		d.CloseClientConnections()
		d.Close()
	})
	return d
}

// sendEvent writes an event as Anthropic and OpenAI's Responses do. It fails where the
// client is gone, which most may ignore.
func sendEvent(w io.Writer, event string, data object) error {
	data["type"] = event
	text, err := json.Marshal(data)
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
	return err
}

// inMessages streams blocks as Anthropic does.
func inMessages(w http.ResponseWriter, model string, blocks []object) {
	usage := object{"input_tokens": 9000, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 1, "service_tier": "standard"}
	sendEvent(w, "message_start", object{"message": object{"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []any{}, "stop_reason": nil, "stop_sequence": nil, "usage": usage}})
	stop := "end_turn"
	for i, block := range blocks {
		delta := object{"type": "text_delta", "text": "I look at it."}
		if block["type"] == "tool_use" {
			stop = "tool_use"
			input, err := json.Marshal(block["input"])
			if err != nil {
				panic(err)
			}
			delta = object{"type": "input_json_delta", "partial_json": string(input)}
			block["input"] = object{}
		}
		sendEvent(w, "content_block_start", object{"index": i, "content_block": block})
		sendEvent(w, "content_block_delta", object{"index": i, "delta": delta})
		sendEvent(w, "content_block_stop", object{"index": i})
	}
	sendEvent(w, "message_delta", object{"delta": object{"stop_reason": stop, "stop_sequence": nil}, "usage": object{"output_tokens": 40}})
	sendEvent(w, "message_stop", object{})
}

// inResponses streams items as OpenAI does.
func inResponses(w http.ResponseWriter, model string, items []object) {
	response := object{"id": "resp_1", "object": "response", "created_at": 1_790_000_000, "status": "in_progress", "model": model, "output": []any{}, "service_tier": "default"}
	sendEvent(w, "response.created", object{"sequence_number": 0, "response": response})
	for i, item := range items {
		sendEvent(w, "response.output_item.added", object{"sequence_number": 2*i + 1, "output_index": i, "item": item})
		sendEvent(w, "response.output_item.done", object{"sequence_number": 2*i + 2, "output_index": i, "item": item})
	}
	response["status"], response["output"] = "completed", items
	response["usage"] = object{"input_tokens": 9000, "input_tokens_details": object{"cached_tokens": 0}, "output_tokens": 40, "output_tokens_details": object{"reasoning_tokens": 0}, "total_tokens": 9040}
	sendEvent(w, "response.completed", object{"sequence_number": 99, "response": response})
}

// claudeActs searches for a tool that is deferred, then reads two files at once and a
// picture.
func claudeActs(d *director, asks *directed) []object {
	text := object{"type": "text", "text": "", "citations": nil}
	n := 0
	call := func(name string, input object) object {
		n++
		return object{"type": "tool_use", "id": fmt.Sprintf("toolu_%d_%d", d.said.Load(), n), "name": name, "input": input, "caller": object{"type": "direct"}}
	}
	switch {
	case !asks.has("ToolSearch"):
		return []object{text} // asked for a title, or the like
	case asks.called == 0:
		return []object{text, call("ToolSearch", object{"query": "select:WebFetch", "max_results": 5})}
	case asks.called == 1:
		return []object{text, call("Read", object{"file_path": filepath.Join(d.dir, "a.txt")}), call("Read", object{"file_path": filepath.Join(d.dir, "b.txt")})}
	case asks.called == 3:
		return []object{text, call("Read", object{"file_path": filepath.Join(d.dir, "c.png")})}
	}
	return []object{text}
}

// codexActs has tools run in each way that the model's own are declared.
func codexActs(d *director, asks *directed) []object {
	id := fmt.Sprintf("%d", d.said.Load())
	thought := object{"type": "reasoning", "id": "rs_" + id, "summary": []object{{"type": "summary_text", "text": "so"}}, "content": nil, "encrypted_content": strings.Repeat("gAAAA", 40), "status": nil}
	message := object{"type": "message", "id": "msg_" + id, "role": "assistant", "status": "completed", "phase": "commentary", "content": []object{{"type": "output_text", "text": "I look at it.",
		"logprobs":    []any{},
		"annotations": []object{{"type": "url_citation", "url": "https://example.com", "title": "x", "start_index": 0, "end_index": 1}}}}}
	cat := "cat " + filepath.Join(d.dir, "a.txt")
	call := func(name string, arguments object) object {
		text, err := json.Marshal(arguments)
		if err != nil {
			panic(err)
		}
		return object{"type": "function_call", "id": "fc_" + id + name, "call_id": "call_" + id + name, "name": name, "arguments": string(text), "status": "completed", "caller": object{"type": "direct"}}
	}
	switch {
	case asks.called == 0 && asks.has("exec_command"):
		return []object{thought, message, call("exec_command", object{"cmd": cat}), call("view_image", object{"path": filepath.Join(d.dir, "c.png")})}
	case asks.called == 0:
		return []object{thought, message, {"type": "custom_tool_call", "id": "ctc_" + id, "call_id": "call_" + id, "name": "exec", "namespace": "functions", "status": "completed",
			"input": fmt.Sprintf("text(await tools.exec_command({cmd: %q}))", cat)}}
	case strings.Contains(asks.body, `"execution":"client"`) && !strings.Contains(asks.body, `"type":"tool_search_output"`):
		return []object{thought, {"type": "tool_search_call", "id": "ts_" + id, "call_id": "call_" + id, "execution": "client", "status": "completed", "arguments": object{"query": "agent", "limit": 3}}}
	case asks.called < 4:
		if asks.has("exec_command") {
			return []object{thought, call("exec_command", object{"cmd": cat})}
		}
		return []object{thought, {"type": "custom_tool_call", "id": "ctc_" + id, "call_id": "call_" + id, "name": "exec", "namespace": "functions", "status": "completed",
			"input": fmt.Sprintf("text(await tools.view_image({path: %q}))", filepath.Join(d.dir, "c.png"))}}
	}
	return []object{thought, message}
}

// TestUnconfiguredAgentsWorkOnLimitedKeys runs the agents' own programs with their
// default tools, deferred and in groups, on keys with limits in tokens and dollars.
// Only Codex's search at the vendor is turned off.
func TestUnconfiguredAgentsWorkOnLimitedKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		vendor upstreamtest.Vendor
		model  string
		turns  int
		holds  []string // what its requests held that was once refused
	}{
		{upstreamtest.Anthropic, "opus", 4, []string{`"type":"tool_reference"`, `"caller":{"type":"direct"}`, `"type":"image"`}},
		{upstreamtest.Anthropic, "sonnet", 4, []string{`"type":"tool_reference"`}},
		{upstreamtest.OpenAI, "gpt-6-sol", 5, []string{`"type":"additional_tools"`, `"type":"namespace"`, `"type":"custom_tool_call_output"`}},
		{upstreamtest.OpenAI, "gpt-6.1-sol", 5, []string{`"type":"additional_tools"`}},
		{upstreamtest.OpenAI, "gpt-5.6-sol", 5, []string{`"type":"additional_tools"`}},
		{upstreamtest.OpenAI, "gpt-5.5", 4, []string{`"type":"tool_search"`, `"type":"tool_search_output"`, `"type":"input_image"`}},
		{upstreamtest.OpenAI, "gpt-5-mini", 4, []string{`"type":"namespace"`, `"type":"function_call_output"`}},
		{upstreamtest.OpenAI, "gpt-4.1", 4, []string{`"type":"namespace"`}},
	} {
		t.Run(test.model, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var picture bytes.Buffer
			if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 64, 64))); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string][]byte{"a.txt": []byte("one\n"), "b.txt": []byte("two\n"), "c.png": picture.Bytes()} {
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d := newDirector(t, dir, codexActs, inResponses)
			if test.vendor == upstreamtest.Anthropic {
				d = newDirector(t, dir, claudeActs, inMessages)
			}
			// An agent may end without having waited for each of its requests.
			s := newServer(t, options{vendor: test.vendor, to: d.URL, upstream: "drain 1m"})
			id, key := s.mint(object{"max_spend_usd": "20", "max_tokens": 20_000_000})
			tape := tapeOf(t, s)
			out, err := agentCommand(t, test.vendor, test.model, dir, "Look at the files.", tape.URL, key).CombinedOutput()
			turns := tape.turns()
			for i, turn := range turns {
				if turn.code != "" {
					t.Errorf("request %d: %d %s", i, turn.status, turn.code)
				}
			}
			if err != nil || len(turns) < test.turns {
				t.Fatalf("%d requests, %v\n%.3000s", len(turns), err, out)
			}
			for _, held := range test.holds {
				if !slices.ContainsFunc(turns, func(r taped) bool { return bytes.Contains(r.body, []byte(held)) }) {
					t.Errorf("no request held %s\n%.3000s", held, out)
				}
			}
			s.eventually("each answer is charged, and nothing more", func() bool {
				return s.show(id)["used_tokens"].(float64) == float64(9040*d.said.Load())
			})
		})
	}
}
