package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// keeper is a stand-in for OpenAI's Responses API that stores what it answers, as
// the real one does by default: its reasoning items hold nothing but their id, and it
// counts as input all that a request refers to. (openai-openapi: createResponse,
// ReasoningItem, ItemReferenceParam.) It calls the one tool that it is given for a
// number of steps.
type keeper struct {
	*httptest.Server
	steps int

	mu       sync.Mutex
	items    map[string]object
	context  map[string][]object // what goes on from an answer
	thought  int64               // tokens of each reasoning item
	n        int
	nano     map[string]int64 // that it billed, by model
	named    int              // items that were only named
	replaces bool             // an item that is sent under an id replaces what is stored there
	errs     []string
}

// storedRates are prices in nano-dollars a token, of the vendor's pages as of
// 2026-11: input and output.
var storedRates = map[string][2]int64{"gpt-5.5": {5000, 30_000}, "gpt-6-sol": {2000, 10_000}}

func newKeeper(t *testing.T, steps int) *keeper {
	k := &keeper{steps: steps, items: map[string]object{}, context: map[string][]object{}, nano: map[string]int64{}, thought: 700}
	k.Server = httptest.NewServer(http.HandlerFunc(k.serve))
	t.Cleanup(func() {
		k.CloseClientConnections()
		k.Close()
		for _, e := range k.errs {
			t.Error("at the vendor: ", e)
		}
	})
	return k
}

// tokensOf is what an item counts: its text, four characters a token, and what is
// only stored.
func (k *keeper) tokensOf(item object) int64 {
	if item["type"] == "reasoning" {
		return k.thought + 4
	}
	text := fmt.Sprint(item["content"], item["arguments"], item["output"])
	if strings.Contains(text, "application/pdf") {
		return 200_000 // what it holds, and not how long it is
	}
	return int64(len(text))/4 + 4
}

func (k *keeper) serve(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ask struct {
		Model    string
		Stream   bool
		Input    json.RawMessage
		Tools    []object
		Previous string `json:"previous_response_id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil || r.URL.Path != "/v1/responses" {
		k.errs = append(k.errs, fmt.Sprintf("%s: %v", r.URL.Path, err))
		return
	}
	var list []object
	if json.Unmarshal(ask.Input, &list) != nil {
		list = []object{{"role": "user", "content": string(ask.Input)}}
	}
	context := k.context[ask.Previous]
	for i, item := range list {
		id, _ := item["id"].(string)
		if item["type"] == "reasoning" || item["type"] == "item_reference" {
			k.named++
			if item = k.items[id]; item == nil {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusNotFound)
				_, _ = fmt.Fprintf(w, `{"error":{"type":"invalid_request_error","message":"Item %d with id '%s' not found."}}`, i, id)
				return
			}
		}
		context = append(context[:len(context):len(context)], item)
		if id != "" && k.replaces {
			k.items[id] = item
		}
	}
	input, calls := int64(20+50*len(ask.Tools)), 0
	for _, item := range context {
		input += k.tokensOf(item)
		if item["type"] == "function_call" {
			calls++
		}
	}
	k.n++
	id := fmt.Sprintf("%050d", k.n)
	items := []object{{"id": "rs_" + id, "type": "reasoning", "summary": []any{}}}
	if calls < k.steps {
		items = append(items, object{"id": "fc_" + id, "type": "function_call", "status": "completed", "call_id": "call_" + id, "name": "lines", "arguments": fmt.Sprintf(`{"file":"f%d.go"}`, calls)})
	} else {
		items = append(items, object{"id": "msg_" + id, "type": "message", "status": "completed", "role": "assistant",
			"content": []object{{"type": "output_text", "text": "done", "annotations": []any{}, "logprobs": []any{}}}})
	}
	output := int64(0)
	for _, item := range items {
		k.items[item["id"].(string)] = item
		output += k.tokensOf(item)
		context = append(context, item)
	}
	k.context["resp_"+id] = context
	rates := storedRates[ask.Model]
	k.nano[ask.Model] += input*rates[0] + output*rates[1]
	response := object{"id": "resp_" + id, "object": "response", "created_at": 1_790_000_000, "status": "completed", "model": ask.Model + "-2026-10-01", "service_tier": "default", "store": true,
		"error": nil, "incomplete_details": nil, "instructions": nil, "metadata": object{}, "parallel_tool_calls": true, "temperature": 1, "top_p": 1, "tool_choice": "auto", "tools": ask.Tools,
		"output": items, "usage": object{"input_tokens": input, "input_tokens_details": object{"cached_tokens": 0}, "output_tokens": output, "output_tokens_details": object{"reasoning_tokens": k.thought}, "total_tokens": input + output}}
	if !ask.Stream {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(response)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	events := 0
	say := func(event string, more object) {
		more["sequence_number"] = events
		events++
		_ = sendEvent(w, event, more) // the client may be gone
	}
	say("response.created", object{"response": object{"id": "resp_" + id, "object": "response", "created_at": 1_790_000_000, "status": "in_progress", "model": response["model"], "output": []any{}}})
	for i, item := range items {
		begun := object{"id": item["id"], "type": item["type"], "summary": []any{}, "status": "in_progress", "call_id": item["call_id"], "name": item["name"], "arguments": "", "role": item["role"], "content": []any{}}
		say("response.output_item.added", object{"output_index": i, "item": begun})
		switch item["type"] {
		case "function_call":
			say("response.function_call_arguments.delta", object{"item_id": item["id"], "output_index": i, "delta": item["arguments"]})
			say("response.function_call_arguments.done", object{"item_id": item["id"], "output_index": i, "arguments": item["arguments"]})
		case "message":
			say("response.content_part.added", object{"item_id": item["id"], "output_index": i, "content_index": 0, "part": object{"type": "output_text", "text": "", "annotations": []any{}}})
			say("response.output_text.delta", object{"item_id": item["id"], "output_index": i, "content_index": 0, "delta": "done", "logprobs": []any{}})
		}
		say("response.output_item.done", object{"output_index": i, "item": item})
	}
	say("response.completed", object{"response": response})
}

// loops lets an SDK run an agent's loop for each of some keys; runs are models and
// keys.
func loops(t *testing.T, client, base string, runs []string) (all []outcome) {
	t.Helper()
	needsSDKs(t)
	cmd := exec.Command("node", append([]string{"sdk/loop.mjs", client, base}, runs...)...)
	endWithTests(cmd)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("node: %v\n%s", err, said.String())
	}
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all) != len(runs)/2 {
		t.Fatalf("%v: %s\n%s", err, out.String(), said.String())
	}
	return all
}

// TestLoopsThatLeaveThoughtsAtTheVendorRunOnSmallKeys runs the loops that the SDKs
// document, with their default of storing answers. Each request names what was
// thought before by its id alone.
func TestLoopsThatLeaveThoughtsAtTheVendorRunOnSmallKeys(t *testing.T) {
	t.Parallel()
	const steps = 6
	for _, client := range []string{"openai", "openai-stream", "agents", "previous", "vercel", "vercel-stream"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			k := newKeeper(t, steps)
			s := newServer(t, options{to: k.URL})
			var runs, ids []string
			for _, dollars := range []string{"1", "3"} {
				for model := range storedRates {
					id, key := s.mint(object{"max_spend_usd": dollars})
					runs, ids = append(runs, model, key), append(ids, id)
				}
			}
			outcomes := loops(t, client, "http://"+s.addr, runs)
			for i, o := range outcomes {
				s.used(ids[i])
				if o.Error != nil || o.Text != "done" {
					t.Errorf("%s: %q, %v", runs[2*i], o.Text, o.Error)
				}
				// Both loops with a model are alike.
				if used, billed := s.show(ids[i])["used_spend_usd"], record.FormatUSD(k.nano[runs[2*i]]/2); used != billed {
					t.Errorf("%s: the books say $%v, the vendor $%s", runs[2*i], used, billed)
				}
			}
			if k.n != len(outcomes)*(steps+1) {
				t.Errorf("%d answers", k.n)
			}
			if client != "previous" && k.named < len(outcomes)*steps*(steps+1)/2 {
				t.Errorf("only %d items were named", k.named)
			}
			if out := s.output(); strings.Contains(out, "more input than") || strings.Contains(out, "passed what was held") {
				t.Error(s.lastLines())
			}
		})
	}
}

// responds posts a request to the Responses API, and returns its answer.
func (s *server) responds(key string, body object) (status int, answer object) {
	s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	res, text := s.must(s.post(key, "/v1/responses", string(b)))
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	return res.StatusCode, answer
}

func said(answer object) string {
	e, _ := answer["error"].(object)
	message, _ := e["message"].(string)
	return message
}

// TestWhatAKeyHasNotSeenIsNamedInItsRefusal: after a restart nothing is known of
// earlier answers, and no key knows the answers of another.
func TestWhatAKeyHasNotSeenIsNamedInItsRefusal(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, 1<<30)
	s := newServer(t, options{to: k.URL})
	small, smallKey := s.mint(object{"max_spend_usd": "1"})
	other, otherKey := s.mint(object{"max_spend_usd": "1"})
	_, large := s.mint(object{"max_spend_usd": "3"})
	request := func(model string, item any) object {
		return object{"model": model, "max_output_tokens": 2000, "input": []any{object{"role": "user", "content": "hi"}, item, object{"role": "user", "content": "go on"}}}
	}
	given := func(key, model string) (thoughts object, id string) {
		status, answer := s.responds(key, object{"model": model, "max_output_tokens": 2000, "input": "hi", "tools": []any{}})
		if status != http.StatusOK {
			t.Fatalf("%d %v", status, answer)
		}
		return answer["output"].([]any)[0].(object), answer["id"].(string)
	}
	thoughts, answer := given(smallKey, "gpt-5.5")
	reference := object{"type": "item_reference", "id": thoughts["id"]}
	goesOn := func(id string) object {
		return object{"model": "gpt-5.5", "max_output_tokens": 2000, "input": "go on", "previous_response_id": id}
	}
	for _, body := range []object{request("gpt-5.5", thoughts), request("gpt-5.5", reference), goesOn(answer)} {
		if status, answer := s.responds(smallKey, body); status != http.StatusOK {
			t.Errorf("what the key was given: %d %v", status, answer)
		}
	}
	s.reload()
	if status, answer := s.responds(smallKey, request("gpt-5.5", thoughts)); status != http.StatusOK {
		t.Errorf("after a reload: %d %v", status, answer)
	}

	named := fmt.Sprintf("%.64q", thoughts["id"])
	refused := func(what, key, id string, body object, want ...string) string {
		t.Helper()
		status, answer := s.responds(key, body)
		message := said(answer)
		for _, part := range append(want, "may use up to $") {
			if !strings.Contains(message, part) {
				t.Errorf("%s: %d %q lacks %q", what, status, message, part)
			}
		}
		if status != http.StatusPaymentRequired || strings.Contains(message, "lower max_tokens") {
			t.Errorf("%s: %d %s", what, status, message)
		}
		s.used(id)
		return message
	}
	include := `include: ["reasoning.encrypted_content"]`
	theirs := refused("another key's thoughts", otherKey, other, request("gpt-5.5", thoughts), "input[1] (reasoning "+named+")", include)
	nobody := object{"type": "reasoning", "id": "rs_" + strings.Repeat("7", 50), "summary": []any{}}
	nobodys := refused("nobody's thoughts", otherKey, other, request("gpt-5.5", nobody), include)
	if strings.ReplaceAll(theirs, thoughts["id"].(string), "") != strings.ReplaceAll(nobodys, nobody["id"].(string), "") {
		t.Errorf("the refusals differ:\n%s\n%s", theirs, nobodys)
	}
	refused("another key's item", otherKey, other, request("gpt-5.5", object{"type": "item_reference", "id": strings.Replace(thoughts["id"].(string), "rs_", "fc_", 1)}), `input[1] (item_reference "fc_`, "store: false")
	refused("another key's answer", otherKey, other, goesOn(answer), fmt.Sprintf("previous_response_id %q", answer), "send the conversation itself")
	body := goesOn("")
	delete(body, "previous_response_id")
	body["conversation"] = "conv_1"
	refused("a conversation", otherKey, other, body, `conversation "conv_1"`, "send the conversation itself")
	refused("an id that is none", otherKey, other, request("gpt-5.5", object{"type": "item_reference", "id": strings.Repeat("\n\"", 10_000)}), `input[1] (item_reference "\n\"\n\"`)
	refused("a document", otherKey, other, object{"model": "gpt-5.5", "input": []any{object{"role": "user", "content": []any{object{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}}}}, "context window", "a file")

	// A document beside it counts far more than the thoughts do, and belies nothing.
	document := object{"role": "user", "content": []any{object{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}}
	_, rich := s.mint(object{"max_spend_usd": "50"})
	thoughtsOfRich, _ := given(rich, "gpt-5.5")
	for range 2 {
		if status, answer := s.responds(rich, object{"model": "gpt-5.5", "max_output_tokens": 2000, "input": []any{document, thoughtsOfRich}}); status != http.StatusOK {
			t.Errorf("a document and thoughts: %d %v", status, answer)
		}
	}
	if status, answer := s.responds(smallKey, request("gpt-5.5", thoughts)); status != http.StatusOK {
		t.Errorf("after others sent a document: %d %v", status, answer)
	}
	if out := s.output(); strings.Contains(out, "more input than") || strings.Contains(out, "passed what was held") {
		t.Error(s.lastLines())
	}

	s.stop()
	s.start()
	message := refused("after a restart", smallKey, small, request("gpt-5.5", thoughts), "input[1] (reasoning "+named+")", include)
	if strings.Count(message, "") > 500 {
		t.Errorf("it is long: %s", message)
	}
	// A cheaper model's fit, by the longest answer of any.
	if status, answer := s.responds(large, request("gpt-6-sol", thoughts)); status != http.StatusOK {
		t.Errorf("after a restart, on a larger key: %d %v", status, answer)
	}
}

// TestADollarIsADollarWhereItemsAreReplaced sends a long text under the id of a short
// answer, and then that id alone, when its key has less left than the text costs.
func TestADollarIsADollarWhereItemsAreReplaced(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, 0)
	k.replaces = true
	s := newServer(t, options{to: k.URL})
	_, key := s.mint(object{"max_spend_usd": "1.20", "fit": false})
	asks := func(items ...any) (int, object) {
		return s.responds(key, object{"model": "gpt-5.5", "max_output_tokens": 1000, "input": append([]any{object{"role": "user", "content": "hi"}}, items...)})
	}
	status, answer := asks()
	if status != http.StatusOK {
		t.Fatalf("%d %v", status, answer)
	}
	item := answer["output"].([]any)[1].(object)
	reference := object{"type": "item_reference", "id": item["id"]}
	for _, named := range []any{reference, object{"id": item["id"], "type": "message", "role": "assistant", "content": strings.Repeat("words ", 25_000)}} {
		if status, answer := asks(named); status != http.StatusOK {
			t.Fatalf("%d %v", status, answer)
		}
	}
	status = http.StatusOK
	for n := 0; status == http.StatusOK && n < 100; n++ { // until there is less than that text costs
		status, answer = asks(object{"role": "user", "content": strings.Repeat("words ", 5000)})
	}
	if status != http.StatusPaymentRequired {
		t.Fatalf("%d %v", status, answer)
	}
	status, answer = asks(reference)
	k.mu.Lock()
	billed := k.nano["gpt-5.5"]
	k.mu.Unlock()
	if status != http.StatusPaymentRequired || billed < 1_000_000_000 || billed > 1_200_000_000 {
		t.Errorf("%d %v; $%.3f of $1.20 were billed", status, answer, float64(billed)/1e9)
	}
}
