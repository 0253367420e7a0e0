package till

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// TestOnlyAKeyWithDollarsHasItsTierNamed: what no dollars depend on is sent as it came.
func TestOnlyAKeyWithDollarsHasItsTierNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.addUpstream("project", Upstream{Preset: "openai", ServiceTier: "auto"})
	var sent string
	s.read = func(body string) { sent = body }
	key := func(upstream string, limits map[record.Kind]int64) minted {
		return s.mint(func(k *record.Key) {
			k.Upstream = upstream
			for kind, n := range limits {
				k.Limit[kind] = n
			}
		})
	}
	const dollar = 1_000_000_000
	for _, test := range []struct {
		name  string
		key   minted
		body  string
		named bool
	}{
		{"activations", key("openai", nil), `{"model":"gpt-5-mini","max_tokens":300,"messages":[]}`, false},
		{"tokens", key("openai", map[record.Kind]int64{record.Tokens: 100_000}), `{"model":"gpt-5-mini","max_tokens":300,"messages":[]}`, false},
		{"dollars", key("openai", map[record.Kind]int64{record.Nanodollars: dollar}), `{"model":"gpt-5-mini","max_tokens":300,"messages":[]}`, true},
		{"dollars and tokens", key("openai", map[record.Kind]int64{record.Nanodollars: dollar, record.Tokens: 100_000}), `{"model":"gpt-5-mini","max_tokens":300,"service_tier":"auto","messages":[]}`, true},
		{"dollars, and it names one", key("openai", map[record.Kind]int64{record.Nanodollars: dollar}), `{"model":"gpt-5-mini","max_tokens":300,"service_tier":"flex","messages":[]}`, false},
		{"dollars, where the project decides", key("project", map[record.Kind]int64{record.Nanodollars: dollar}), `{"model":"gpt-5-mini","max_tokens":300,"messages":[]}`, false},
	} {
		if status, code, message := s.serve(test.key, asks{method: "POST", path: "/v1/chat/completions", body: test.body}); status != 200 {
			t.Errorf("%s: %d %s %s", test.name, status, code, message)
		}
		if named := strings.Contains(sent, `"service_tier":"default"`); named != test.named || !named && sent != test.body {
			t.Errorf("%s: sent %s", test.name, sent)
		}
	}
}

// TestAProjectsTierThatIsRefusedHasAMend: an error that names the field which till wrote
// is one that no client can avoid.
func TestAProjectsTierThatIsRefusedHasAMend(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	k := s.mint(func(k *record.Key) { k.Limit[record.Nanodollars] = 1_000_000_000 })
	for text, want := range map[string]string{
		`{"error":{"message":"Unknown parameter: 'service_tier'."}}`: "service_tier auto",
		`{"error":{"message":"Unknown parameter: 'x'."}}`:            "",
	} {
		log := new(bytes.Buffer)
		s.h.app.targets["openai"].advice = newAdvice(slog.New(slog.NewTextHandler(log, nil)))
		s.inside = func(r *http.Request) {
			exchangeOf(r.Context()).learnFromError(&http.Response{StatusCode: http.StatusBadRequest}, []byte(text))
		}
		if status, _, message := s.serve(k, chat("gpt-5-mini")); status != 200 {
			t.Fatalf("%d %s", status, message)
		}
		if said := log.String(); !strings.Contains(said, want) || want == "" && said != "" {
			t.Errorf("%s: %q", text, said)
		}
	}
}
