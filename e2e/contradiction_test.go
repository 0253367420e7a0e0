package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// localServer stands for a server that people run themselves: it reads one field
// for the length of an answer and drops others, adds a system prompt, and may know
// no stream_options.
type localServer struct {
	*httptest.Server
	field  string // that it reads
	adds   int64  // tokens that it adds to each prompt
	strict bool   // refuses stream_options
	hates  string // a field that it refuses
	quotes bool   // refuses a temperature that is text, and repeats it

	tokens, answers, refused atomic.Int64
	authorization            atomic.Value // string
}

// unbounded is the answer of a server that read no bound: 40,000 tokens as in
// ik_llama.cpp#2321.
const unbounded = 40_000

func newLocalServer(t *testing.T, field string) *localServer {
	l := &localServer{field: field}
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *localServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	l.authorization.Store(r.Header.Get("Authorization"))
	var body map[string]json.RawMessage
	if err := json.Unmarshal(b, &body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if warm := body["temperature"]; l.quotes && len(warm) > 0 && warm[0] == '"' {
		l.refused.Add(1)
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprintf(w, `{"detail":[{"type":"float_type","loc":["body","temperature"],"input":%s}]}`, warm)
		return
	}
	if _, ok := body["stream_options"]; ok && l.strict { // llxprt-code#114, new-api#418
		l.refused.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error"}}`)
		return
	}
	if _, ok := body[l.hates]; ok {
		l.refused.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprintf(w, `{"error":{"message":"Input should be smaller","param":%q}}`, l.hates)
		return
	}
	output := int64(unbounded)
	if n := json.RawMessage(body[l.field]); len(n) > 0 {
		if err := json.Unmarshal(n, &output); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	input := int64(len(body["messages"]))/5 + l.adds
	l.answers.Add(1)
	l.tokens.Add(input + output)
	usage := fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, input, output, input+output)
	if string(body["stream"]) == "true" {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\ndata: [DONE]\n\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":%q}}],"usage":%s}`,
		strings.Repeat("word ", 200), usage)
}

const localBody = `{"model":"m","messages":[{"role":"user","content":"hello"}]}`

// drainKey asks until it is refused for good, and returns the last code.
func (s *server) drainKey(key, body string) string {
	s.t.Helper()
	for range 100 {
		if status, code := s.sendBody(key, body); status != http.StatusOK {
			return code
		}
	}
	s.t.Fatal("a limited key is never refused")
	return ""
}

// TestAServerThatReadsAnotherFieldIsLearnt is about llama-cpp-python#1907,
// ik_llama.cpp#2321 and text-generation-inference#2844.
func TestAServerThatReadsAnotherFieldIsLearnt(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_tokens")
	s := newServer(t, options{to: l.URL, upstream: "multiply 1"})
	_, first := s.mint(object{"max_tokens": 2_000})
	if status, _ := s.sendBody(first, localBody); status != http.StatusOK {
		t.Fatal(status)
	}
	s.eventually("the operator is told", func() bool {
		return strings.Contains(s.output(), "passed what was held") && strings.Contains(s.output(), "output_field")
	})
	_, key := s.mint(object{"max_tokens": 2_000})
	_, counted := s.mint(object{"max_activations": 50})
	refuses := func(when string) {
		t.Helper()
		before := l.answers.Load()
		res, body := s.must(s.post(key, "/v1/chat/completions", localBody))
		if res.Header.Get("Till-Refusal") != "till_not_meterable" || !strings.Contains(body, "40000") || !strings.Contains(body, "output_field") {
			t.Errorf("%s: %d %s", when, res.StatusCode, body)
		}
		if l.answers.Load() != before {
			t.Errorf("%s: it was sent", when)
		}
		if status, code := s.sendBody(counted, localBody); status != http.StatusOK {
			t.Errorf("%s, a key without such a limit: %d %s", when, status, code)
		}
	}
	refuses("once learnt")
	s.replace("multiply 1", "input_extra 600")
	s.reload()
	refuses("after a reload that does not mend it")
	s.stop()
	s.start()
	refuses("after a restart")

	s.replace("input_extra 600", "output_field max_completion_tokens")
	s.reload()
	told := strings.Count(s.output(), "passed what was held")
	if status, code := s.sendBody(key, localBody); status != http.StatusOK {
		t.Fatalf("an operator who set the option: %d %s", status, code)
	}
	// It is learnt after the answer. A key that asked before would be exhausted.
	s.eventually("what was set wrong is learnt as well", func() bool { return strings.Count(s.output(), "passed what was held") > told })
	_, key = s.mint(object{"max_tokens": 2_000})
	if status, code := s.sendBody(key, localBody); code != "till_not_meterable" {
		t.Errorf("what was set wrong: %d %s", status, code)
	}
	s.replace("output_field max_completion_tokens", "output_field max_tokens")
	s.reload()
	before := l.tokens.Load()
	if code := s.drainKey(key, localBody); code != "till_budget_too_small" && code != "till_tokens_exhausted" {
		t.Errorf("mended, the key ends with %s", code)
	}
	if used := l.tokens.Load() - before; used > 2_000 || used == 0 {
		t.Errorf("mended, a key of 2,000 used %d", used)
	}
}

// TestPresetsOfLocalServersHoldAtOnce sends requests without a credential, with each
// field that a client may write.
func TestPresetsOfLocalServersHoldAtOnce(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_tokens")
	s := newServer(t, options{more: `
		upstream vllm {
			to ` + l.URL + `
		}
		upstream mine llamacpp {
			to ` + l.URL + `
		}`})
	for upstream, body := range map[string]string{
		"vllm": localBody,
		"mine": `{"model":"m","max_completion_tokens":30000,"messages":[{"role":"user","content":"hello"}]}`,
	} {
		before := l.tokens.Load()
		_, key := s.mint(object{"upstream": upstream, "max_tokens": 2_000})
		answers := s.spendAll(key, body, 10, 0, false)
		if used := l.tokens.Load() - before; used > 2_000 || used < 1_000 || answers == 0 {
			t.Errorf("%s: a key of 2,000 used %d in %d answers", upstream, used, answers)
		}
		if got := l.authorization.Load(); got != "Bearer none" {
			t.Errorf("%s: credential %q", upstream, got)
		}
	}
}

// TestAServerThatAddsToPromptsIsLearnt is about LibreChat#1543, and the default
// system prompt in vLLM's template for Mistral Small 3.
func TestAServerThatAddsToPromptsIsLearnt(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_tokens")
	l.adds = 1000 // more than the preset expects
	s := newServer(t, options{to: l.URL, upstream: "output_field max_tokens"})
	id, key := s.mint(object{"max_tokens": 10_000})
	body := `{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hello"}]}`
	if status, _ := s.sendBody(key, body); status != http.StatusOK {
		t.Fatal(status)
	}
	s.used(id)
	s.eventually("it is learnt", func() bool {
		_, code := s.sendBody(key, body)
		return code == "till_not_meterable"
	})
	var figure []string
	s.eventually("the log names a figure", func() bool {
		figure = regexp.MustCompile(`set input_extra (\d+)\D`).FindStringSubmatch(s.output()) // the whole of it
		return figure != nil
	})
	s.replace("output_field max_tokens", "output_field max_tokens\n\t\t\tinput_extra "+figure[1])
	s.reload()
	before := l.tokens.Load()
	_, key = s.mint(object{"max_tokens": 10_000})
	s.drainKey(key, body)
	if used := l.tokens.Load() - before; used > 10_000 || used < 8_000 {
		t.Errorf("mended, a key of 10,000 used %d", used)
	}
}

// TestAServerThatKnowsNoStreamOptionsIsNotAskedAgain is about new-api#418,
// llxprt-code#114 and dify-plugin-sdks#50.
func TestAServerThatKnowsNoStreamOptionsIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_completion_tokens")
	l.strict = true
	s := newServer(t, options{to: l.URL, upstream: "multiply 1"})
	_, key := s.mint(object{"max_tokens": 100_000})
	body := `{"model":"m","stream":true,"max_completion_tokens":10,"messages":[{"role":"user","content":"hello"}]}`
	if status, _ := s.sendBody(key, body); status != http.StatusBadRequest {
		t.Fatalf("the first is refused as the server does: %d", status)
	}
	for range 3 {
		if status, code := s.sendBody(key, body); status != http.StatusOK {
			t.Fatalf("then: %d %s", status, code)
		}
	}
	s.stop()
	if n := strings.Count(s.output(), "ask_usage off says the same"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	s.start()
	if status, code := s.sendBody(key, body); status != http.StatusOK {
		t.Fatalf("after a restart: %d %s", status, code)
	}
	s.replace("multiply 1", "ask_usage on")
	s.reload()
	for range 2 {
		if status, _ := s.sendBody(key, body); status != http.StatusBadRequest {
			t.Fatalf("told to ask: %d", status)
		}
	}
	s.replace("ask_usage on", "ask_usage off")
	s.reload()
	refused := l.refused.Load()
	if status, _ := s.sendBody(key, body); status != http.StatusOK || l.refused.Load() != refused {
		t.Fatalf("told not to ask: %d", status)
	}
}

// TestNobodyTalksAServerIntoAskingForNoUsage. Otherwise all keys would pay the full
// bound of each stream from then on.
func TestNobodyTalksAServerIntoAskingForNoUsage(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_completion_tokens")
	l.quotes, l.strict = true, true
	s := newServer(t, options{to: l.URL})
	_, key := s.mint(object{"max_tokens": 100_000})
	body := `{"model":"m","stream":true,"temperature":%s,"max_completion_tokens":10,"messages":[]}`
	for _, said := range []string{`"stream_options"`, `"stream\u005foptions"`} {
		if status, _ := s.sendBody(key, fmt.Sprintf(body, said)); status != http.StatusUnprocessableEntity {
			t.Fatal(status)
		}
	}
	if status, _ := s.sendBody(key, fmt.Sprintf(body, "1")); status != http.StatusBadRequest || l.refused.Load() != 3 {
		t.Errorf("a stream is not asked any more: %d", status)
	}
}

// TestAnOperatorHearsWhichFieldsAreRefused checks that each field is logged at most
// once an hour.
func TestAnOperatorHearsWhichFieldsAreRefused(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_tokens")
	s := newServer(t, options{to: l.URL, upstream: "output_field max_tokens"})
	_, key := s.mint(object{"max_tokens": 100_000})
	with := func(name string) string {
		return `{"model":"m","max_tokens":10,` + name + `:1,"messages":[]}`
	}
	for range 3 {
		if status, code := s.sendBody(key, with(`"vendor_flag"`)); status != http.StatusForbidden || code != "till_not_meterable" {
			t.Fatalf("unknown: %d %s", status, code)
		}
	}
	if status, _ := s.sendBody(key, with(`"\u001b[31m`+strings.Repeat("x", 200)+`"`)); status != http.StatusForbidden {
		t.Fatal(status)
	}
	s.says("cannot be allowed")
	out := s.output()
	if n := strings.Count(out, "allow_field vendor_flag"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	if strings.Contains(out, "\x1b[31m") || strings.Contains(out, strings.Repeat("x", 65)) {
		t.Error("a client writes into the log")
	}
	s.replace("output_field max_tokens", "output_field max_tokens\n\t\t\tallow_field vendor_flag")
	s.reload()
	if status, code := s.sendBody(key, with(`"vendor_flag"`)); status != http.StatusOK {
		t.Errorf("allowed: %d %s", status, code)
	}
}

// TestAnOperatorHearsThatAWrittenFieldIsRefused: openclaw#53006 and OpenHands#9937
// are about vendors that refuse a bound which the client did not choose.
func TestAnOperatorHearsThatAWrittenFieldIsRefused(t *testing.T) {
	t.Parallel()
	l := newLocalServer(t, "max_tokens")
	l.hates = "max_completion_tokens"
	s := newServer(t, options{to: l.URL, upstream: "multiply 1"})
	_, key := s.mint(object{"max_tokens": 100_000})
	stated := `{"model":"m","max_completion_tokens":10,"messages":[]}`
	if status, _ := s.sendBody(key, stated); status != http.StatusUnprocessableEntity {
		t.Fatal(status)
	}
	if strings.Contains(s.output(), "naming a field") {
		t.Error("a field that the client sent is taken for till's")
	}
	for range 3 {
		if status, _ := s.sendBody(key, localBody); status != http.StatusUnprocessableEntity {
			t.Fatal(status)
		}
	}
	s.stop()
	if n := strings.Count(s.output(), "output_field max_tokens"); n != 1 {
		t.Errorf("the mend is said %d times:\n%s", n, s.output())
	}
	s.replace("multiply 1", "output_field max_tokens")
	s.start()
	if status, code := s.sendBody(key, localBody); status != http.StatusOK {
		t.Errorf("mended: %d %s", status, code)
	}
}
