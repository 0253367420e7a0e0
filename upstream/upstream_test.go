package upstream

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
)

func TestPathsWorkWithAndWithoutTheirPrefix(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ preset, path, want string }{
		{"openai", "/v1/chat/completions", "/v1/chat/completions"},
		{"openai", "/chat/completions", "/v1/chat/completions"},
		{"openai", "/v1/v1/models", "/v1/models"},
		{"openai", "/v1/v1/v1/models", "/v1/models"},
		{"openai", "/v1beta/x", "/v1/v1beta/x"},
		{"openai", "/v1", "/v1"},
		{"openai", "/v1/v1", "/v1"},
		{"anthropic", "/messages", "/v1/messages"},
		{"anthropic", "/v1/messages/count_tokens", "/v1/messages/count_tokens"},
		{"gemini", "/models/g:generateContent", "/v1beta/models/g:generateContent"},
		{"gemini", "/v1/models/g:generateContent", "/v1/models/g:generateContent"},
		{"gemini", "/v1beta/openai/chat/completions", "/v1beta/openai/chat/completions"},
		{"gemini", "/upload/v1beta/files", "/upload/v1beta/files"},
		{"groq", "/openai/v1/chat/completions", "/openai/v1/chat/completions"},
		{"groq", "/v1/chat/completions", "/openai/v1/chat/completions"},
		{"groq", "/chat/completions", "/openai/v1/chat/completions"},
		{"groq", "/openai/v1/openai/v1/models", "/openai/v1/models"},
		{"openrouter", "/v1/models", "/api/v1/models"},
		{"fireworks", "/chat/completions", "/inference/v1/chat/completions"},
		{"deepseek", "/chat/completions", "/v1/chat/completions"},
		{"deepseek", "/anthropic/v1/messages", "/anthropic/v1/messages"},
		{"cohere", "/chat", "/v2/chat"},
		{"cohere", "/v1/rerank", "/v1/rerank"},
		{"perplexity", "/chat/completions", "/chat/completions"},
		{"ollama", "/api/chat", "/api/chat"},
		{"ollama", "/chat/completions", "/v1/chat/completions"},
		{"vllm", "/chat/completions", "/v1/chat/completions"},
		{"vllm", "/tokenize", "/tokenize"},
		{"vllm", "/sleep", "/v1/sleep"},
		{"llamacpp", "/models", "/v1/models"},
		{"lmstudio", "/api/v0/models", "/api/v0/models"},
		{"sglang", "/v1/tokenize", "/v1/tokenize"},
	} {
		p, ok := Lookup(test.preset)
		if !ok {
			t.Fatal(test.preset)
		}
		if got := p.Canonical(test.path); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.preset, test.path, got, test.want)
		}
	}
}

func TestDenyRulesAreNotDodged(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, path string
		admin, async bool
	}{
		{"openai", "/v1/batches", false, true},
		{"openai", "/batches", false, true},
		{"openai", "/v1/v1/batches", false, true},
		{"openai", "/v1/Batches/", false, true},
		{"openai", "/v1/files/file-1/content", false, true},
		{"openai", "/v1/organization/admin_api_keys", true, false},
		{"openai", "/organization/users", true, false},
		{"openai", "/v1/realtime/client_secrets", true, true},
		{"openai", "/v1/chat/completions", false, false},
		{"openai", "/v1/responses", false, false},
		{"anthropic", "/messages/batches", false, true},
		{"anthropic", "/v1/messages", false, false},
		{"gemini", "/v1alpha/auth_tokens", true, false},
		{"gemini", "/models/veo:predictLongRunning", false, true},
		{"gemini", "/v1beta/cachedcontents", false, true},
		{"openrouter", "/api/v1/keys", true, false},
		{"openrouter", "/keys", true, false},
		{"groq", "/v1/batches", false, true},
		{"vllm", "/metrics", true, false},
		{"vllm", "/sleep", true, false},
		{"vllm", "/v1/load_lora_adapter", true, false},
		{"vllm", "/Wake_Up", true, false},
		{"vllm", "/health", false, false},
		{"llamacpp", "/slots/0", true, false},
		{"llamacpp", "/props", true, false},
		{"lmstudio", "/api/v1/models/load", true, false},
		{"lmstudio", "/api/v1/models", false, false},
		{"sglang", "/flush_cache", true, false},
		{"tgi", "/metrics", true, false},
	} {
		p, _ := Lookup(test.preset)
		clean, err := scope.CleanPath(test.path)
		if err != nil {
			t.Fatal(err)
		}
		admin, async := p.Denied("POST", p.Canonical(clean))
		if admin != test.admin || async != test.async {
			t.Errorf("%s %s: administrative %v, asynchronous %v", test.preset, test.path, admin, async)
		}
	}
}

func TestEveryPresetIsComplete(t *testing.T) {
	t.Parallel()
	want := "openai anthropic gemini openrouter mistral groq together fireworks perplexity deepseek xai cohere ollama vllm llamacpp lmstudio tgi sglang"
	if got := strings.Join(Names(), " "); got != want {
		t.Fatalf("presets: %s", got)
	}
	for _, p := range All() {
		u, err := url.Parse(p.Origin)
		if err != nil || u.Path != "" || u.Host == "" {
			t.Errorf("%s: origin %q", p.Name, p.Origin)
		}
		if err := p.Auth.Validate(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if len(p.Free) == 0 || len(p.KeyEnv) == 0 && !p.Keyless || len(p.ClientEnv) == 0 || p.Dialect == Unified {
			t.Errorf("%s lacks something", p.Name)
		}
		for _, h := range p.AccountHeaders {
			if h != http.CanonicalHeaderKey(h) {
				t.Errorf("%s: header %s is not canonical", p.Name, h)
			}
		}
		for _, r := range p.Free {
			if r.Method == "*" {
				t.Errorf("%s: the free rule %v is for any method", p.Name, r)
			}
			if admin, async := p.Denied(r.Method, r.Pattern); admin || async {
				t.Errorf("%s: %v is free and denied", p.Name, r)
			}
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"/v1/models", "/v1/v1", "/models", "/openai/v1/x", "/v1/openai/v1/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !strings.HasPrefix(path, "/") {
			return
		}
		for _, p := range All() {
			once := p.Canonical(path)
			if twice := p.Canonical(once); twice != once {
				t.Errorf("%s: %q becomes %q and then %q", p.Name, path, once, twice)
			}
		}
	})
}

func TestCredentialsGoWhereTheUpstreamWantsThem(t *testing.T) {
	t.Parallel()
	secret := token.NewSecret("s3cr&t=1")
	for _, test := range []struct {
		auth          Auth
		query, header string
		name          string
	}{
		{Auth{In: InHeader, Name: "authorization", Scheme: "Bearer"}, "a=1", "Bearer s3cr&t=1", "Authorization"},
		{Auth{In: InHeader, Name: "PRIVATE-TOKEN"}, "a=1", "s3cr&t=1", "Private-Token"},
		{Auth{In: InQuery, Name: "key"}, "a=1&key=s3cr%26t%3D1", "", "Authorization"},
		{Auth{In: InBasicUser}, "a=1", "Basic czNjciZ0PTE6", "Authorization"},
		{Auth{In: InBasicPassword}, "a=1", "Basic OnMzY3ImdD0x", "Authorization"},
	} {
		if err := test.auth.Validate(); err != nil {
			t.Errorf("%+v: %v", test.auth, err)
		}
		h, u := http.Header{}, &url.URL{RawQuery: "a=1"}
		if test.auth.In == InQuery {
			u.RawQuery = "key=x&a=1&key=%zz"
		}
		test.auth.Apply(h, u, secret)
		if u.RawQuery != test.query || h.Get(test.name) != test.header {
			t.Errorf("%+v: query %q, header %q", test.auth, u.RawQuery, h.Get(test.name))
		}
	}
	for _, a := range []Auth{{}, {In: "cookie"}, {In: InHeader}, {In: InHeader, Name: "a b"}, {In: InHeader, Name: "host"},
		{In: InHeader, Name: "X", Scheme: "a b"}, {In: InQuery}, {In: InBasicUser, Name: "x"}} {
		if a.Validate() == nil {
			t.Errorf("%+v is accepted", a)
		}
	}
}

func TestEveryDialectCarriesCodeAndMessage(t *testing.T) {
	t.Parallel()
	const message = `key "a" <b> & c has used all 5`
	for code, status := range codes {
		r := Refusal{Code: code, Status: status, Message: message, RequestID: "req_1"}
		for d, where := range map[Dialect][]string{
			OpenAI: {"error", "code"}, Anthropic: {"error", "details", "error_code"},
			Gemini: {"error", "details", "reason"}, Cohere: {"code"}, Mistral: {"code"}, Unified: {"error", "code"},
		} {
			var body map[string]any
			if err := json.Unmarshal(d.Body(r), &body); err != nil {
				t.Fatalf("%s: %v", d, err)
			}
			var at any = body
			for _, name := range where {
				if list, ok := at.([]any); ok {
					at = list[0]
				}
				at = at.(map[string]any)[name]
			}
			want := code
			if d == Gemini {
				want = strings.ToUpper(code)
			}
			if at != want {
				t.Errorf("%s: code at %v is %v, want %s", d, where, at, want)
			}
			if !strings.Contains(string(d.Body(r)), "<b> & c has used all 5") {
				t.Errorf("%s: the message is not in %s", d, d.Body(r))
			}
			stream := string(d.StreamError("/v1/chat/completions", r))
			if !strings.HasSuffix(stream, "\n\n") || strings.Count(stream, "\n\n") != 1 || !strings.Contains(stream, "data: {") {
				t.Errorf("%s: %q is not one event", d, stream)
			}
		}
	}
}

// TestOldClientsOfGeminiSeeTheErrorThatEndsAStream in the bytes after the event,
// where other clients read nothing.
func TestOldClientsOfGeminiSeeTheErrorThatEndsAStream(t *testing.T) {
	t.Parallel()
	r := Refusal{Code: "till_key_revoked", Status: 403, Message: "key k was revoked"}
	for _, d := range []Dialect{Unified, OpenAI, Anthropic, Gemini, Cohere, Mistral} {
		for path, old := range map[string]bool{"/v1beta/models/m:streamGenerateContent": d == Gemini, "/v1beta/openai/chat/completions": false, "/v1/messages": false} {
			switch end := d.StreamEnd(path, r); {
			case !old && end != nil:
				t.Errorf("%s %s: %q", d, path, end)
			case old && !bytes.Equal(end, d.Body(r)):
				t.Errorf("%s %s: %q, want the body of the error", d, path, end)
			}
		}
	}
}

// TestClientsOfMessagesAndResponsesGetTheStatusOfABadRequest, which they do not take
// for a fault of their key. An end-to-end test covers what they do with it.
func TestClientsOfMessagesAndResponsesGetTheStatusOfABadRequest(t *testing.T) {
	t.Parallel()
	for code, status := range codes {
		for path, protocol := range map[string]bool{
			"/v1/messages": true, "/api/v1/messages": true, "/anthropic/v1/messages": true,
			"/v1/responses": true, "/openai/v1/responses": true,
			"/v1/chat/completions": false, "/v1beta/models/m:generateContent": false, "/v2/chat": false, "/v1/embeddings": false,
			"/v1/messages/count_tokens": false, "/v1/responses/input_tokens": false, "/v1/models/messages-1": false, "": false,
		} {
			want := status
			switch code {
			case "till_not_meterable", "till_model_not_allowed", "till_price_unknown":
				if protocol {
					want = 400
				} else if status != 403 {
					t.Errorf("%s is %d elsewhere, want 403", code, status)
				}
			}
			if got := Status(path, code); got != want {
				t.Errorf("%s at %q: %d, want %d", code, path, got, want)
			}
		}
	}
	if got := Status("/v1/messages", "till_unheard_of"); got != 500 {
		t.Errorf("a code of no table: %d", got)
	}
}

func TestARefusalNamesTheFieldThatItIsAbout(t *testing.T) {
	t.Parallel()
	r := Refusal{Code: "till_not_meterable", Status: 400, Message: "M", RequestID: "R", Field: "thread"}
	for d, want := range map[Dialect]string{
		OpenAI: `"type":"invalid_request_error","param":"thread","code":"till_not_meterable"`,
		// By this the SDK's tool runner goes on without a thread (@anthropic-ai/sdk 1.12.0).
		Anthropic: `"type":"invalid_request_error","message":"M","details":{"error_code":"thread_unsupported_request","unsupported":["thread"]}`,
	} {
		if got := string(d.Body(r)); !strings.Contains(got, want) {
			t.Errorf("%s: %s", d, got)
		}
	}
	r.Field = "tools"
	if got := string(Anthropic.Body(r)); !strings.Contains(got, `"details":{"error_code":"till_not_meterable"}`) {
		t.Errorf("a field that no SDK knows how to do without: %s", got)
	}
}

func TestEveryRefusalIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/keys-and-limits.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := range codes {
		if !strings.Contains(string(page), "`"+code+"`") {
			t.Errorf("docs/keys-and-limits.md lacks %s", code)
		}
	}
}

func TestShapesAreTheVendors(t *testing.T) {
	t.Parallel()
	r := Refusal{Code: "till_activations_exhausted", Status: 402, Message: "M", RequestID: "R"}
	for d, want := range map[Dialect]string{
		OpenAI:    `{"error":{"message":"M","type":"insufficient_quota","param":null,"code":"till_activations_exhausted"}}`,
		Anthropic: `{"type":"error","error":{"type":"billing_error","message":"M","details":{"error_code":"till_activations_exhausted"}},"request_id":"R"}`,
		Gemini:    `{"error":{"code":402,"message":"M","status":"FAILED_PRECONDITION","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"till","reason":"TILL_ACTIVATIONS_EXHAUSTED"}]}}`,
		Cohere:    `{"message":"M","code":"till_activations_exhausted","id":"R"}`,
		Mistral:   `{"object":"error","message":"M","type":"insufficient_quota","code":"till_activations_exhausted"}`,
		Unified:   `{"type":"error","error":{"type":"billing_error","code":"till_activations_exhausted","message":"M","status":402},"message":"M","request_id":"R"}`,
	} {
		if got := string(d.Body(r)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", d, got, want)
		}
	}
	responses := string(OpenAI.StreamError("/v1/responses", r))
	if !strings.HasPrefix(responses, "event: response.failed\ndata: ") {
		t.Errorf("%q", responses)
	}
	if got := string(Anthropic.StreamError("/v1/messages", r)); !strings.HasPrefix(got, "event: error\ndata: {\"type\":\"error\"") {
		t.Errorf("%q", got)
	}
}
