package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestAPriceFileIsReadOnReloadAndALineOverridesIt: a model without a price is
// refused, gets one by the file, another by its next version, and keeps what a
// line of the configuration says.
func TestAPriceFileIsReadOnReloadAndALineOverridesIt(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	u.input = 10
	file := filepath.Join(t.TempDir(), "prices.json")
	write := func(model string, output float64) {
		t.Helper()
		text := fmt.Sprintf(`{"schema":"till.prices/1","models":[{"provider":"openai","id":%q,"input":1,"output":%g},{"provider":"openai","id":"fixed","input":50,"output":50}]}`, model, output)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("other", 2)
	s := newServer(t, options{to: u.URL, more: "prices " + file + "\nprice openai/fixed 1.00 2.00"})
	cost := func(model string) (string, string) {
		t.Helper()
		id, key := s.mint(object{"max_spend_usd": "1"})
		_, code := s.sendBody(key, strings.Replace(spendBody, `"m"`, `"`+model+`"`, 1))
		s.used(id)
		used, _ := s.show(id)["used_spend_usd"].(string)
		return used, code
	}
	if used, code := cost("tuned"); code != "till_price_unknown" {
		t.Errorf("without a price: $%s %s", used, code)
	}
	for _, rate := range []float64{2, 4} {
		write("tuned", rate)
		s.reload()
		want := record.FormatUSD(10*1000 + 100*int64(rate)*1000)
		if used, code := cost("tuned"); used != want || code != "" {
			t.Errorf("at $%g: $%s %s, want $%s", rate, used, code, want)
		}
		if used, code := cost("fixed"); used != record.FormatUSD(10*1000+100*2000) || code != "" {
			t.Errorf("a line: $%s %s", used, code)
		}
	}
}

// TestCountOnlyCountsTheTokensOfAModelWithoutAPrice counts the tokens that answers
// report, whatever other limits the key has; with only a limit in dollars, nothing
// bounds the request.
func TestCountOnlyCountsTheTokensOfAModelWithoutAPrice(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 10)
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		bodies <- string(b)
		usage := `"usage":{"prompt_tokens":6,"completion_tokens":30,"total_tokens":36}`
		if strings.Contains(string(b), "much") {
			usage = `"usage":{"prompt_tokens":40000,"completion_tokens":30000,"total_tokens":70000}`
		}
		answer, kind, status := `{"model":"x","choices":[],`+usage+`}`, "application/json", http.StatusOK
		switch {
		case strings.Contains(string(b), "silent"):
			answer = `{"model":"x","choices":[]}`
		case strings.Contains(string(b), "wrong"):
			answer, status = `{"error":{"message":"wrong"}}`, http.StatusBadRequest
		case strings.Contains(string(b), `"include_usage":true`):
			answer, kind = "data: {\"model\":\"x\",\"choices\":[{}]}\n\ndata: {\"model\":\"x\",\"choices\":[],"+usage+"}\n\ndata: [DONE]\n\n", "text/event-stream"
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer) // a client that is gone
	}))
	t.Cleanup(u.Close)
	s := newServer(t, options{to: u.URL})
	for _, test := range []struct {
		body  string
		least int // tokens
		exact bool
	}{
		{`{"model":"x","messages":[{"role":"user","content":"hi"}]}`, 36, true},
		{`{"model":"x","messages":[{"role":"user","content":"much"}]}`, 70_000, true},
		{`{"model":"x","messages":[{"role":"user","content":"hi"}],"max_tokens":500}`, 36, true},
		{`{"model":"x","messages":[{"role":"user","content":"hi"}],"stream":true}`, 36, true},
		{`{"model":"x","messages":[{"role":"user","content":"wrong"}]}`, 0, true},
		{`{"model":"x","messages":[{"role":"user","content":"silent"}]}`, 0, false},
	} {
		for _, limits := range []object{{"max_spend_usd": "1"}, {"max_spend_usd": "1", "max_tokens": 1_000_000}} {
			if limits["max_tokens"] != nil && strings.Contains(test.body, "much") {
				continue // it would belie what was held
			}
			limits["unknown_price"] = "count_only"
			id, key := s.mint(limits)
			res, body := s.must(s.post(key, "/v1/chat/completions", test.body))
			if res.Header.Get("Till-Refusal") != "" {
				t.Fatalf("%s with %v: %s", test.body, limits, body)
			}
			sent := <-bodies
			s.used(id)
			k := s.show(id)
			used, _ := k["used_tokens"].(float64)
			bounded := limits["max_tokens"] != nil
			if exact := test.exact || !bounded; int(used) < test.least || exact && int(used) != test.least {
				t.Errorf("%s with %v: %d, %v tokens are counted, want %d", test.body, limits, res.StatusCode, used, test.least)
			}
			if spent, _ := k["used_spend_usd"].(string); strings.Trim(spent, "0.") != "" {
				t.Errorf("%s with %v: $%s are counted", test.body, limits, spent)
			}
			if stated := strings.Contains(test.body, "max_tokens"); !bounded && strings.Contains(sent, "max_") != stated || strings.Contains(body, "prompt_tokens") != (test.least > 0 && !strings.Contains(test.body, "stream")) {
				t.Errorf("%s with %v: sent is %s, and answered %s", test.body, limits, sent, body)
			}
		}
	}
	s.clean()
}

// TestOllamasOwnAPIIsCountedInTokens covers streamed answers, Ollama's default, and
// others; both are bounded in Ollama's own field.
func TestOllamasOwnAPIIsCountedInTokens(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 10)
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		bodies <- string(b)
		const counts = `"done":true,"prompt_eval_count":26,"eval_count":30}` + "\n"
		if strings.Contains(string(b), `"stream":false`) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = io.WriteString(w, `{"model":"m","message":{"content":"hello"},`+counts) // a client that is gone
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, `{"model":"m","message":{"content":"hel"},"done":false}`+"\n"+`{"model":"m","message":{"content":"lo"},`+counts)
	}))
	t.Cleanup(u.Close)
	s := newServer(t, options{vendor: "ollama", to: u.URL})
	for _, test := range []struct{ body, sent string }{
		{`{"model":"m","messages":[{"role":"user","content":"hi"}]}`, `"num_predict":`},
		{`{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":false,"options":{"num_predict":50}}`, `"num_predict":50`},
		{`{"model":"m","messages":[{"role":"user","content":"hi"}],"options":{"num_predict":-1}}`, `"num_predict":32768`},
	} {
		id, key := s.mint(object{"max_tokens": 100_000})
		res, answer := s.must(s.post(key, "/api/chat", test.body))
		if res.StatusCode != http.StatusOK || !strings.Contains(answer, "eval_count") {
			t.Fatalf("%s: %d %s", test.body, res.StatusCode, answer)
		}
		if sent := <-bodies; !strings.Contains(sent, test.sent) {
			t.Errorf("%s was sent as %s", test.body, sent)
		}
		s.used(id)
		if used := s.show(id)["used_tokens"].(float64); used != 56 {
			t.Errorf("%s used %v tokens, want 56", test.body, used)
		}
	}
}
