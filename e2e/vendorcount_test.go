package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// countedVendor is an API of Anthropic's shape that counts a token for four bytes
// of what it is given to read, at its endpoint for that and in its bill.
type countedVendor struct {
	*httptest.Server
	counts, answers atomic.Int64
	asked           chan struct{} // one value for each question
	says            atomic.Pointer[func(w http.ResponseWriter, r *http.Request, n int)]
	header          atomic.Pointer[http.Header]
	gate            chan struct{} // answers wait until it is closed; nil: they do not
}

const countedOutput = 500

func newCountedVendor(t *testing.T) *countedVendor {
	v := &countedVendor{asked: make(chan struct{}, 64)}
	v.answer(func(w http.ResponseWriter, _ *http.Request, n int) { fmt.Fprintf(w, `{"input_tokens":%d}`, n) })
	v.Server = httptest.NewServer(v)
	t.Cleanup(func() {
		v.CloseClientConnections()
		v.Close()
	})
	return v
}

func (v *countedVendor) answer(f func(w http.ResponseWriter, r *http.Request, n int)) {
	v.says.Store(&f)
}

func (v *countedVendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var ask map[string]json.RawMessage
	if err := json.Unmarshal(body, &ask); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := (len(ask["system"]) + len(ask["messages"])) / 4
	w.Header().Set("Content-Type", "application/json")
	if r.Header.Get("X-Api-Key") != realKey || r.Header.Get("Anthropic-Version") != "2023-06-01" {
		http.Error(w, `{"error":{"message":"wrong credential or version"}}`, http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/v1/messages/count_tokens":
		for name := range ask {
			if name != "model" && name != "messages" && name != "system" && name != "tools" && name != "tool_choice" && name != "thinking" {
				http.Error(w, `{"error":{"type":"invalid_request_error","message":"`+name+`: Extra inputs are not permitted"}}`, http.StatusBadRequest)
				return
			}
		}
		v.counts.Add(1)
		v.header.Store(&r.Header)
		v.asked <- struct{}{}
		(*v.says.Load())(w, r, n)
	case "/v1/messages":
		v.answers.Add(1)
		if v.gate != nil {
			select {
			case <-v.gate:
			case <-r.Context().Done():
				return
			}
		}
		fmt.Fprintf(w, `{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn","usage":{"input_tokens":%d,"output_tokens":%d}}`, n, countedOutput)
	default:
		http.Error(w, `{"error":{"message":"unknown path"}}`, http.StatusNotFound)
	}
}

// countedBody has some 100,000 bytes of text, which are 25,000 tokens there: $0.05
// of input, and at its bound more than $0.2.
var (
	countedText = strings.Repeat("Mind the gap. ", 7200)
	countedBody = `{"model":"claude-sonnet-5-5","max_tokens":1000,"stream":false,"temperature":1,"system":"` + countedText + `","messages":[{"role":"user","content":"go on"}]}`
	countedCost = int64((len(countedText)+2+len(`[{"role":"user","content":"go on"}]`))/4)*2_000 + countedOutput*10_000
)

func (s *server) countedRequest(key string) *http.Request {
	s.t.Helper()
	return s.post(key, "/v1/messages", countedBody, "Anthropic-Version", "2023-06-01", "User-Agent", "agent/1")
}

func (s *server) counted(key string) (*http.Response, string) {
	s.t.Helper()
	return s.must(s.countedRequest(key))
}

// countedStatus is the same for goroutines; 0 where no answer came.
func (s *server) countedStatus(r *http.Request) int {
	res, err := s.client.Do(r)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// TestWhatTheBoundKeepsOutIsCountedByTheVendor. Without that count, many a key never
// spent five of its eight dollars, because a byte is not a token.
func TestWhatTheBoundKeepsOutIsCountedByTheVendor(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	s := newServer(t, options{vendor: "anthropic", to: v.URL,
		more: fmt.Sprintf("upstream exactly anthropic {\nto %[1]s\ncredential {env.MOCK_KEY}\ncount_exact off\n}\n"+
			"upstream narrow anthropic {\nto %[1]s\ncredential {env.MOCK_KEY}\nallow POST /v1/messages\n}\n"+
			"upstream wide anthropic {\nto %[1]s\ncredential {env.MOCK_KEY}\nallow POST /v1/messages\nallow POST /v1/messages/count_tokens\n}\n", v.URL)})
	for _, test := range []struct {
		name   string
		fields object
		status int
		counts int64
	}{
		{"dollars", object{"max_spend_usd": "0.10"}, 200, 1},
		{"dollars, and nothing may be lowered", object{"max_spend_usd": "0.10", "fit": false}, 200, 1},
		{"dollars of one request", object{"max_spend_usd": "50", "max_request_spend_usd": "0.10"}, 200, 1},
		{"tokens", object{"max_tokens": 30_000}, 200, 1},
		{"dollars, and it is off", object{"max_spend_usd": "0.10", "upstream": "exactly"}, 402, 0},
		{"dollars, and only answers are allowed", object{"max_spend_usd": "0.10", "upstream": "narrow"}, 402, 0},
		{"dollars, and counting is allowed as well", object{"max_spend_usd": "0.10", "upstream": "wide"}, 200, 1},
		{"dollars, and the key may only ask for answers", object{"max_spend_usd": "0.10", "paths": []string{"/v1/messages"}}, 200, 1},
		{"dollars that last", object{"max_spend_usd": "50"}, 200, 0},
		{"dollars that could not do in any case", object{"max_spend_usd": "0.01"}, 402, 0},
		{"activations", object{"max_activations": 3}, 200, 0},
	} {
		id, key := s.mint(test.fields)
		before := v.counts.Load()
		res, body := s.counted(key)
		if n := v.counts.Load() - before; res.StatusCode != test.status || n != test.counts {
			t.Errorf("%s: %d %s, counted %d times, want %d and %d", test.name, res.StatusCode, body, n, test.status, test.counts)
		}
		n := s.used(id)
		k := s.show(id)
		if spent, _ := k["used_spend_usd"].(string); test.status == 200 && test.fields["max_spend_usd"] != nil && (spent != record.FormatUSD(countedCost) || n != 1) {
			t.Errorf("%s: charged $%s and %d activations, want $%s and 1", test.name, spent, n, record.FormatUSD(countedCost))
		}
	}
	sent := *v.header.Load()
	if sent.Get("User-Agent") != "agent/1" || sent.Get("Authorization") != "" || sent.Get("X-Forwarded-For") != "" {
		t.Errorf("the question came with %v", sent)
	}

	// All of a key's money can be spent: after some requests what is left is less
	// than another one costs, with its margin.
	id, key := s.mint(object{"max_spend_usd": "0.30"})
	answers := int64(0)
	for {
		res, _ := s.counted(key)
		if res.StatusCode != 200 {
			if code := res.Header.Get("Till-Refusal"); code != "till_budget_too_small" {
				t.Errorf("refused with %s", code)
			}
			break
		}
		answers++
	}
	s.used(id)
	t.Logf("$0.30 gave %d answers of $%s", answers, record.FormatUSD(countedCost))
	if want := int64(0.30*1e9) / countedCost; answers < want-1 || answers > want {
		t.Errorf("%d answers, want %d or one less", answers, want)
	}
	s.stop()
	if strings.Contains(s.output(), realKey) || strings.Contains(s.output(), "Mind the gap") {
		t.Error("the log holds the credential, or what was asked")
	}
}

// TestWhatOthersHoldIsCountedFor: a request that could be admitted once the others have
// settled, if its input were known, is counted and waits; it is not refused for good.
func TestWhatOthersHoldIsCountedFor(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	v.gate = make(chan struct{})
	s := newServer(t, options{vendor: "anthropic", to: v.URL})
	id, key := s.mint(object{"max_spend_usd": "0.12"})
	first := s.send(s.countedRequest(key))
	s.eventually("the first is at the vendor", func() bool { return v.answers.Load() == 1 })
	second := s.send(s.countedRequest(key))
	s.eventually("the second waits", func() bool { return s.gauge("waiting") == "1" })
	close(v.gate)
	for name, c := range map[string]<-chan clientAnswer{"the first": first, "the second": second} {
		if got := <-c; got.status != http.StatusOK {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if n := v.counts.Load(); n != 2 {
		t.Errorf("counted %d times, want 2", n)
	}
	s.used(id)
	if want := record.FormatUSD(2 * countedCost); s.show(id)["used_spend_usd"] != want {
		t.Errorf("$%s is charged, want $%s", s.show(id)["used_spend_usd"], want)
	}
}

// TestWhatBecomesTooLargeWhileItWaitsIsCounted: when the request came its length fitted, and
// it waits for an activation. Meanwhile less than its length is left, but enough for it.
func TestWhatBecomesTooLargeWhileItWaitsIsCounted(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	came, release := make(chan struct{}), make(chan struct{})
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Fails") == "" {
			v.ServeHTTP(w, r)
			return
		}
		close(came)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		http.Error(w, `{"error":{"type":"invalid_request_error","message":"no"}}`, http.StatusBadRequest)
	}))
	t.Cleanup(failing.Close)
	s := newServer(t, options{vendor: "anthropic", to: failing.URL})
	id, key := s.mint(object{"max_spend_usd": "0.50", "max_activations": 1, "charge": "success", "fit": false})
	first := s.send(s.post(key, "/v1/messages", `{"model":"claude-sonnet-5-5","max_tokens":10,"messages":[{"role":"user","content":"go on"}]}`,
		"Anthropic-Version", "2023-06-01", "X-Fails", "1"))
	<-came
	second := s.send(s.countedRequest(key))
	s.eventually("the second waits", func() bool { return s.gauge("waiting") == "1" })
	if n := v.counts.Load(); n != 0 {
		t.Fatalf("counted %d times, although its length fitted", n)
	}
	if status, answer := s.api("PATCH", "/keys/"+id, object{"max_spend_usd": "0.10"}); status != http.StatusOK {
		t.Fatalf("%d %v", status, answer)
	}
	close(release)
	if got := <-first; got.status != http.StatusBadRequest {
		t.Errorf("the first: %+v", got)
	}
	if got := <-second; got.status != http.StatusOK || v.counts.Load() != 1 {
		t.Errorf("the second: %+v, counted %d times, want once", got, v.counts.Load())
	}
}

// TestACountThatFailsLeavesTheBound, and is not requested again for a while.
func TestACountThatFailsLeavesTheBound(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]func(w http.ResponseWriter, r *http.Request, n int){
		"an error": func(w http.ResponseWriter, _ *http.Request, _ int) {
			http.Error(w, realKey, http.StatusInternalServerError)
		},
		"too often":       func(w http.ResponseWriter, _ *http.Request, _ int) { http.Error(w, "{}", http.StatusTooManyRequests) },
		"it is not there": func(w http.ResponseWriter, _ *http.Request, _ int) { http.Error(w, "{}", http.StatusNotFound) },
		"a count too low": func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, `{"input_tokens":5}`) },
		"no count":        func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, `{"error":{}}`) },
		"no end": func(w http.ResponseWriter, _ *http.Request, n int) {
			fmt.Fprintf(w, `{%s"input_tokens":%d}`, strings.Repeat(" ", 1<<20), n)
		},
		"silence": func(_ http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() },
		"another address": func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, "/v1/messages", http.StatusTemporaryRedirect)
		},
		"a broken promise": func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newCountedVendor(t)
			v.answer(says)
			s := newServer(t, options{vendor: "anthropic", to: v.URL})
			_, key := s.mint(object{"max_spend_usd": "0.10"})
			code := "till_budget_too_small"
			if slices.Contains([]string{"an error", "too often", "silence", "a broken promise"}, name) { // there may be one soon
				code = "till_budget_held"
			}
			for range 3 {
				if res, body := s.counted(key); res.Header.Get("Till-Refusal") != code {
					t.Errorf("%d %s", res.StatusCode, body)
				}
			}
			asks, said := int64(1), 1
			if name == "a count too low" { // for this request, which says nothing of others
				asks, said = 3, 0
			}
			if n, answers := v.counts.Load(), v.answers.Load(); n != asks || answers != 0 {
				t.Errorf("it was asked %d times, and answered %d", n, answers)
			}
			s.stop()
			if out := s.output(); strings.Contains(out, realKey) || strings.Count(out, "did not count") != said {
				t.Errorf("the log: %s", out)
			}
		})
	}
}

// TestOneCountOfAKeyRunsAtATime. The others wait for it, because a final refusal
// would end an agent whose budget is not spent.
func TestOneCountOfAKeyRunsAtATime(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	v.gate = make(chan struct{}) // an answer would tell how long the same beginning is
	var running, most atomic.Int64
	v.answer(func(w http.ResponseWriter, r *http.Request, n int) {
		if now := running.Add(1); now > most.Load() {
			most.Store(now)
		}
		defer running.Add(-1)
		fmt.Fprintf(w, `{"input_tokens":%d}`, n)
	})
	s := newServer(t, options{vendor: "anthropic", to: v.URL})
	_, key := s.mint(object{"max_spend_usd": "0.22"}) // three holds of counted inputs, and none by length
	statuses := make(chan int, 3)
	for range 3 {
		r := s.countedRequest(key)
		go func() { statuses <- s.countedStatus(r) }()
	}
	for range 3 {
		select {
		case <-v.asked:
		case status := <-statuses:
			t.Fatalf("answered %d before all were counted", status)
		}
	}
	close(v.gate)
	for range 3 {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("answered %d", status)
		}
	}
	if v.counts.Load() != 3 || most.Load() != 1 {
		t.Errorf("%d were counted, %d at a time", v.counts.Load(), most.Load())
	}
}

// TestNothingIsSentOnForWhoLeftWhileItWasCounted also covers a key that ended
// meanwhile.
func TestNothingIsSentOnForWhoLeftWhileItWasCounted(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	goOn := make(chan struct{})
	v.answer(func(w http.ResponseWriter, r *http.Request, n int) {
		select {
		case <-goOn:
			fmt.Fprintf(w, `{"input_tokens":%d}`, n)
		case <-r.Context().Done():
		}
	})
	s := newServer(t, options{vendor: "anthropic", to: v.URL})
	id, key := s.mint(object{"max_spend_usd": "0.10"})
	ctx, cancel := context.WithCancel(context.Background())
	r := s.countedRequest(key).WithContext(ctx)
	answered := make(chan int)
	go func() { answered <- s.countedStatus(r) }()
	<-v.asked
	cancel()
	if status := <-answered; status != 0 {
		t.Errorf("the client did not go away: %d", status)
	}
	// Its place is given back, and nothing was held against the vendor.
	r = s.countedRequest(key)
	go func() { answered <- s.countedStatus(r) }()
	<-v.asked
	if status, _ := s.api("POST", "/keys/"+id+"/revoke", object{}); status != 200 {
		t.Fatal(status)
	}
	close(goOn)
	if status := <-answered; status == http.StatusOK {
		t.Errorf("the key was revoked while it was counted: %d", status)
	}
	if n := v.answers.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestACountThatAnAnswerBeliesIsNotAskedForAgain: a gateway's counting endpoint may
// guess, while the vendor behind it counts differently.
func TestACountThatAnAnswerBeliesIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	v := newCountedVendor(t)
	v.answer(func(w http.ResponseWriter, _ *http.Request, n int) { fmt.Fprintf(w, `{"input_tokens":%d}`, n/2) })
	s := newServer(t, options{vendor: "anthropic", to: v.URL})
	id, key := s.mint(object{"max_spend_usd": "0.10"})
	if res, body := s.counted(key); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	s.used(id)
	if res, body := s.counted(key); res.Header.Get("Till-Refusal") != "till_budget_too_small" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	if n := v.counts.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	s.stop()
	if out := s.output(); strings.Count(out, "more input than the vendor's endpoint") != 1 {
		t.Errorf("the log: %s", out)
	}
}
