package upstream

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/till-proxy/till/scope"
)

// TestWhatIsMeteredCannotBeFree checks that no rule for free paths lets a metered
// request through.
func TestWhatIsMeteredCannotBeFree(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ preset, rule, metered string }{
		{"openai", "POST /v1/chat/completions", "/v1/chat/completions"},
		{"openai", "POST /v1/chat/completions/", "/v1/chat/completions/"},
		{"openai", "POST /V1/Chat/Completions", "/V1/Chat/Completions"},
		{"openai", "* /v1/*", "/v1/chat/completions"},
		{"openai", "* /*", "/v1/chat/completions"},
		{"openai", "POST /v1/*/completions", "/v1/*/completions"},
		{"openai", "POST /v1/batches", "/v1/batches"},
		{"openai", "PUT /v1/responses", "/v1/responses"},
		{"openai", "GET /v1/*", ""},
		{"openai", "GET /v1/responses/*", ""},
		{"openai", "POST /v1/moderations", ""},
		{"anthropic", "* /v1/messages", "/v1/messages"},
		{"gemini", "POST /v1beta/models/gemini-3-pro:generateContent", "/v1beta/models/gemini-3-pro:generateContent"},
		{"gemini", "POST /v1beta/models/*", "/v1beta/models/a:generateContent"},
		{"gemini", "POST /v1/models/*:embedContent", "/v1/models/*:embedContent"},
		{"gemini", "POST /v1beta/dynamic/*:streamGenerateContent", "/v1beta/dynamic/*:streamGenerateContent"},
		{"gemini", "* /v1beta/openai/*", "/v1beta/openai/chat/completions"},
		{"ollama", "* /api/*", "/api/chat/completions"},
		{"ollama", "POST /api/generate", "/api/generate"},
		{"cohere", "* /v2/*", "/v2/chat/completions"},
		{"deepseek", "* /anthropic/*", "/anthropic/v1/chat/completions"},
	} {
		method, pattern, _ := strings.Cut(test.rule, " ")
		rule, err := scope.ParsePathRule(method, pattern)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := Lookup(test.preset)
		if got := p.MeteredBy(rule); got != test.metered {
			t.Errorf("%s, free %s: %q is metered, want %q", test.preset, test.rule, got, test.metered)
		}
	}
	if got := new(Preset).MeteredBy(scope.PathRule{Method: "*", Pattern: "/*"}); got != "" {
		t.Errorf("without a preset %s is metered", got)
	}
}

// TestEveryEndpointIsAmongTheEndings reads them from the source, so that an endpoint
// which is added there is not forgotten.
func TestEveryEndpointIsAmongTheEndings(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("endpoint.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?:HasSuffix\(path, |path == )"([^"]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(found) < 12 {
		t.Fatalf("only %d endpoints were found", len(found))
	}
	for _, m := range found {
		known := false
		for _, ending := range endings {
			known = known || strings.HasSuffix(ending, m[1]) || strings.HasSuffix("/api"+ending, m[1])
		}
		if !known {
			t.Errorf("no ending for %s", m[1])
		}
		for _, p := range All() {
			path := p.Canonical(m[1])
			if strings.HasPrefix(m[1], ":") {
				path = p.Prefix + "/models/a" + m[1]
			}
			if _, err := new(Estimate).endpoint(p, path); err == nil && p.MeteredBy(scope.PathRule{Method: "*", Pattern: "/*"}) == "" {
				t.Errorf("%s: a rule for all paths would make %s free", p.Name, path)
			}
		}
	}
}

// TestWhatVendorsTakeNothingForIsNotMeasured also checks that the paths beside it
// are.
func TestWhatVendorsTakeNothingForIsNotMeasured(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, line string
		unbilled     bool
	}{
		{"openai", "POST /v1/moderations", true},
		{"openai", "GET /v1/responses/resp_1", true},
		{"openai", "DELETE /v1/responses/resp_1", true},
		{"openai", "POST /v1/responses/resp_1/cancel", true},
		{"openai", "GET /v1/responses/resp_1/input_items", true},
		{"openai", "GET /v1/chat/completions/chatcmpl-1", true},
		{"openai", "GET /v1/chat/completions/chatcmpl-1/messages", true},
		{"openai", "DELETE /v1/chat/completions/chatcmpl-1", true},
		{"xai", "GET /v1/responses/resp_1", true},
		{"openrouter", "GET /api/v1/generation", true},
		{"openai", "GET /v1/responses", false},
		{"openai", "GET /v1/chat/completions", false}, // what all keys have stored
		{"openai", "POST /v1/responses/compact", false},
		{"openai", "POST /v1/responses/resp_1", false},
		{"openai", "POST /v1/chat/completions/chatcmpl-1", false},
		{"openai", "PUT /v1/moderations", false},
		{"mistral", "POST /v1/moderations", false}, // billed by tokens: docs.mistral.ai/capabilities/guardrailing
		{"mistral", "POST /v1/chat/moderations", false},
		{"groq", "GET /openai/v1/responses/resp_1", false},
		{"together", "POST /v1/moderations", false},
		{"anthropic", "GET /v1/messages", false},
	} {
		method, path, _ := strings.Cut(test.line, " ")
		e, err := preset(t, test.preset).Estimate(&Call{Method: method, Path: path})
		if test.unbilled && (e != nil || err != nil) || !test.unbilled && !errors.Is(err, ErrNotMeterable) && !errors.Is(err, ErrBody) {
			t.Errorf("%s: %s: %+v, %v", test.preset, test.line, e, err)
		}
	}
}
