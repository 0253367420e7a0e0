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

	"github.com/till-proxy/till/limiter"
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
		want := limiter.FormatUSD(10*1000 + 100*int64(rate)*1000)
		if used, code := cost("tuned"); used != want || code != "" {
			t.Errorf("at $%g: $%s %s, want $%s", rate, used, code, want)
		}
		if used, code := cost("fixed"); used != limiter.FormatUSD(10*1000+100*2000) || code != "" {
			t.Errorf("a line: $%s %s", used, code)
		}
	}
}

// TestOllamasOwnAPIIsCountedInTokens, streamed as it does unless it is told not
// to, and bounded in its own field.
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
