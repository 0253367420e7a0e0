package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// vendorPaths is an upstream that answers paths with what a test gives, and keeps
// what it was sent.
type vendorPaths struct {
	*httptest.Server
	answers map[string]func(body string) string // by method and path

	mu    sync.Mutex
	lines []string // method and path of each request
	sent  []string // their bodies
}

func newVendorPaths(t *testing.T, answers map[string]func(body string) string) *vendorPaths {
	v := &vendorPaths{answers: answers}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // a client that was ended
		}
		line := r.Method + " " + r.URL.Path
		v.mu.Lock()
		v.lines, v.sent = append(v.lines, line), append(v.sent, string(body))
		v.mu.Unlock()
		answer := v.answers[line]
		if answer == nil {
			http.Error(w, "unknown: "+line, http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, answer(string(body)))
	}))
	t.Cleanup(v.Close)
	return v
}

func (v *vendorPaths) requests() (lines, sent []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lines, v.sent
}

func says(answer string) func(string) string { return func(string) string { return answer } }

// asks makes one of the calls of sdk/ask.mjs.
func asks(t *testing.T, call, base, key string) (value any, failed *thrown) {
	t.Helper()
	needsSDKs(t)
	cmd := exec.Command("node", "sdk/ask.mjs", call, base, key)
	endWithTests(cmd)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, complaints.String())
	}
	var answer struct {
		Value any
		Error *thrown
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return answer.Value, answer.Error
}

// TestTheToolRunnerGoesOnWithoutAThread uses a key with a limit in dollars, because a
// request does not hold its thread. The SDK goes on by itself if the error's details
// say that the vendor cannot thread.
func TestTheToolRunnerGoesOnWithoutAThread(t *testing.T) {
	t.Parallel()
	const usage = `"stop_sequence":null,"usage":{"input_tokens":60,"output_tokens":20}`
	v := newVendorPaths(t, map[string]func(string) string{"POST /v1/messages": func(body string) string {
		if !strings.Contains(body, "tool_result") {
			return `{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","stop_reason":"tool_use",` + usage +
				`,"content":[{"type":"tool_use","id":"toolu_1","name":"add","input":{"a":2,"b":3},"caller":{"type":"direct"}}]}`
		}
		return `{"id":"msg_2","type":"message","role":"assistant","model":"claude-sonnet-5-5","stop_reason":"end_turn",` + usage +
			`,"content":[{"type":"text","text":"it is 5","citations":null}]}`
	}})
	s := newServer(t, options{vendor: upstreamtest.Anthropic, to: v.URL})
	id, key := s.mint(object{"max_spend_usd": "5"})
	front := tapeOf(t, s)
	value, failed := asks(t, "toolRunner", front.URL, key)
	if failed != nil || value != "it is 5" {
		t.Fatalf("%v, %+v", value, failed)
	}
	turns := front.turns()
	if len(turns) != 3 || turns[0].status != http.StatusBadRequest || turns[0].code != "till_not_meterable" || !strings.Contains(string(turns[0].body), `"thread"`) {
		t.Errorf("it asked %d times, first: %d %s", len(turns), turns[0].status, turns[0].code)
	}
	if _, sent := v.requests(); len(sent) != 2 || strings.Contains(strings.Join(sent, ""), `"thread"`) {
		t.Errorf("the upstream was sent %q", sent)
	}
	s.used(id)
	if spent := s.show(id)["used_spend_usd"]; spent == "0.00" {
		t.Error("two turns cost nothing")
	}
	if strings.Contains(s.output(), "allow_field") {
		t.Error("the operator was told to allow it")
	}
	s.clean()
}

// TestTheSDKsEmbeddingsWorkOnLimitedKeys: Gemini's SDK names the model in the path
// and in the body.
func TestTheSDKsEmbeddingsWorkOnLimitedKeys(t *testing.T) {
	t.Parallel()
	one := `{"values":[0.1,0.2]}`
	v := newVendorPaths(t, map[string]func(string) string{
		"POST /v1beta/models/gemini-embedding-001:embedContent": says(`{"embedding":` + one + `}`),
		"POST /v1beta/models/gemini-embedding-001:batchEmbedContents": func(body string) string {
			return `{"embeddings":[` + strings.TrimSuffix(strings.Repeat(one+",", strings.Count(body, `"content"`)), ",") + `]}`
		},
	})
	s := newServer(t, options{vendor: upstreamtest.Gemini, to: v.URL})
	for what, fields := range map[string]object{
		"tokens": {"max_tokens": 10_000}, "dollars": {"max_spend_usd": "1"}, "models": {"max_activations": 5, "models": []string{"gemini-embedding-001"}},
	} {
		id, key := s.mint(fields)
		value, failed := asks(t, "embed", "http://"+s.addr, key)
		if failed != nil || fmt.Sprint(value) != "[1 3]" {
			t.Errorf("%s: %v, %v", what, value, failed)
		}
		if what == "tokens" {
			s.used(id)
			if used, _ := s.show(id)["used_tokens"].(float64); used < 4 || used > 1000 {
				t.Errorf("four words were charged %v tokens", used)
			}
		}
	}
	if lines, sent := v.requests(); !strings.Contains(strings.Join(sent, ""), `"model":"models/gemini-embedding-001"`) {
		t.Errorf("the SDK names the model once: %v", lines)
	}
	s.clean()
}

// TestWhatOpenAITakesNothingForWorksOnEveryKey also checks that it costs an
// activation, and that the model of a moderation is one of those that a key is
// limited to.
func TestWhatOpenAITakesNothingForWorksOnEveryKey(t *testing.T) {
	t.Parallel()
	const response = `{"id":"resp_1","object":"response","status":"cancelled","model":"gpt-5-mini","output":[],"usage":{"input_tokens":5000000,"output_tokens":900000}}`
	v := newVendorPaths(t, map[string]func(string) string{
		"POST /v1/moderations":                 says(`{"id":"modr-1","model":"omni-moderation-latest","results":[{"flagged":false,"categories":{},"category_scores":{}}]}`),
		"GET /v1/responses/resp_1":             says(response),
		"POST /v1/responses/resp_1/cancel":     says(response),
		"DELETE /v1/responses/resp_1":          says(`{"id":"resp_1","object":"response","deleted":true}`),
		"GET /v1/responses/resp_1/input_items": says(`{"object":"list","data":[{"id":"msg_1","type":"message","role":"user","content":[]}],"has_more":false,"first_id":"msg_1","last_id":"msg_1"}`),
	})
	s := newServer(t, options{vendor: upstreamtest.OpenAI, to: v.URL})
	for what, fields := range map[string]object{
		"tokens": {"max_tokens": 500, "max_activations": 6}, "dollars": {"max_spend_usd": "0.001", "max_activations": 6},
		"models": {"max_activations": 6, "models": []string{"gpt-5-mini"}},
	} {
		id, key := s.mint(fields)
		for call, want := range map[string]string{"moderate": "false", "moderateWith": "false", "stored": "[1 resp_1 cancelled]"} {
			value, failed := asks(t, call, "http://"+s.addr, key)
			if what == "models" && call == "moderateWith" {
				if failed == nil || !strings.Contains(failed.Message, "may not use model omni-moderation-latest") {
					t.Errorf("a key for other models may name one: %v, %v", value, failed)
				}
				continue
			}
			if failed != nil || fmt.Sprint(value) != want {
				t.Errorf("%s: %s: %v, %v", what, call, value, failed)
			}
		}
		want := int64(6)
		if what == "models" {
			want = 5
		}
		if used := s.used(id); used != want {
			t.Errorf("%s: %d activations, want %d", what, used, want)
		}
		k := s.show(id)
		if tokens, _ := k["used_tokens"].(float64); tokens != 0 || k["used_spend_usd"] != nil && k["used_spend_usd"] != "0.00" {
			t.Errorf("%s: it was charged for them: %v", what, k)
		}
	}
	s.clean()
}

// TestAPredictionThatDoesNotComeTrueIsPaidFor from what was held.
func TestAPredictionThatDoesNotComeTrueIsPaidFor(t *testing.T) {
	t.Parallel()
	const output = 40 // of which 9 are the answer, and 31 what was predicted in vain
	v := newVendorPaths(t, map[string]func(string) string{"POST /v1/chat/completions": says(
		`{"id":"c","object":"chat.completion","created":1,"model":"gpt-4.1","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"class Person"}}],` +
			`"usage":{"prompt_tokens":30,"completion_tokens":40,"total_tokens":70,"completion_tokens_details":{"rejected_prediction_tokens":31}}}`)})
	s := newServer(t, options{vendor: upstreamtest.OpenAI, to: v.URL})
	id, key := s.mint(object{"max_tokens": 100_000})
	if value, failed := asks(t, "predict", "http://"+s.addr, key); failed != nil || value != "class Person" {
		t.Fatalf("%v, %v", value, failed)
	}
	s.used(id)
	if used := s.show(id)["used_tokens"]; used != 30.0+output {
		t.Errorf("%v tokens were charged", used)
	}
	if _, sent := v.requests(); len(sent) != 1 || !strings.Contains(sent[0], `"max_tokens":`) {
		t.Errorf("sent on as %q", sent)
	}
	// 1,000 bytes of it are held as input and again as output.
	body := `{"model":"gpt-4.1","messages":[],"max_tokens":100,"prediction":{"type":"content","content":"` + strings.Repeat("x", 1000) + `"}}`
	for limit, status := range map[int]int{2_000: http.StatusPaymentRequired, 3_000: http.StatusOK} {
		_, key := s.mint(object{"max_tokens": limit, "fit": false})
		if res, answer := s.must(s.post(key, "/v1/chat/completions", body)); res.StatusCode != status {
			t.Errorf("of %d tokens: %d, want %d: %s", limit, res.StatusCode, status, answer)
		}
	}
	s.clean()
}
