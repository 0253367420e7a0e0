package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func withOptions(t interface{ Fatal(...any) }, preset string, o Options) *Preset {
	p, ok := Lookup(preset)
	if !ok {
		t.Fatal(preset)
	}
	p, err := p.With(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func chatCall(body string) *Call {
	return &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: []byte(body)}
}

// TestTheBoundStandsWhereTheServerReadsIt: llama-cpp-python#1907, ik_llama.cpp#2321
// and text-generation-inference#2844 are about servers that read only max_tokens and
// answer without end when another field holds the bound.
func TestTheBoundStandsWhereTheServerReadsIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, preset, field string
		body                string
		stated              int64
		unwritten           bool
		sent                string // at a bound of 50
	}{
		{"none stated, as OpenAI reads it", "openai", "", `{"model":"m"}`, -1, false, `{"max_completion_tokens":50,"model":"m"}`},
		{"none stated", "openai", MaxTokens, `{"model":"m"}`, -1, false, `{"max_tokens":50,"model":"m"}`},
		{"stated where it is read", "openai", MaxTokens, `{"model":"m","max_tokens":70}`, 70, false, `{"model":"m","max_tokens":50}`},
		{"stated elsewhere", "openai", MaxTokens, `{"model":"m","max_completion_tokens":70}`, 70, true, `{"max_tokens":50,"model":"m","max_completion_tokens":50}`},
		{"stated in both, more elsewhere", "openai", MaxTokens, `{"model":"m","max_tokens":70,"max_completion_tokens":90}`, 90, false, `{"model":"m","max_tokens":50,"max_completion_tokens":50}`},
		{"stated as null", "openai", MaxTokens, `{"model":"m","max_tokens":null}`, -1, false, `{"model":"m","max_tokens":50}`},
		{"stated as 0", "openai", MaxTokens, `{"model":"m","max_completion_tokens":0}`, -1, false, `{"max_tokens":50,"model":"m","max_completion_tokens":0}`},
		{"the other one", "vllm", MaxCompletionTokens, `{"model":"m","max_tokens":70}`, 70, true, `{"max_completion_tokens":50,"model":"m","max_tokens":50}`},
		{"both, none stated", "openai", BothFields, `{"model":"m"}`, -1, false, `{"max_tokens":50,"max_completion_tokens":50,"model":"m"}`},
		{"both, one stated", "openai", BothFields, `{"model":"m","max_completion_tokens":70}`, 70, true, `{"max_tokens":50,"model":"m","max_completion_tokens":50}`},
		{"both, both stated", "openai", BothFields, `{"model":"m","max_completion_tokens":70,"max_tokens":60}`, 70, true, `{"model":"m","max_completion_tokens":50,"max_tokens":50}`},
		{"vLLM", "vllm", "", `{"model":"m"}`, -1, false, `{"max_tokens":50,"model":"m"}`},
		{"llama.cpp", "llamacpp", "", `{"model":"m","max_completion_tokens":70}`, 70, true, `{"max_tokens":50,"model":"m","max_completion_tokens":50}`},
		{"LM Studio", "lmstudio", "", `{"model":"m"}`, -1, false, `{"max_tokens":50,"model":"m"}`},
		{"TGI", "tgi", "", `{"model":"m"}`, -1, false, `{"max_tokens":50,"model":"m"}`},
		{"SGLang", "sglang", "", `{"model":"m"}`, -1, false, `{"max_tokens":50,"model":"m"}`},
	} {
		p := withOptions(t, test.preset, Options{OutputField: test.field})
		e, err := p.Estimate(chatCall(test.body))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if e.Stated != test.stated || e.Unwritten != test.unwritten {
			t.Errorf("%s: stated %d, unwritten %v", test.name, e.Stated, e.Unwritten)
		}
		if sent := string(asSent(e, 50)); sent != test.sent {
			t.Errorf("%s: sent %s\nwant %s", test.name, sent, test.sent)
		}
	}
}

// TestNoServerReadsMoreThanIsHeld sends requests with any of the fields to servers
// that read one of them, or one in preference to the other: with the right option,
// each reads a bound, and none above the one that is held.
func TestNoServerReadsMoreThanIsHeld(t *testing.T) {
	t.Parallel()
	reads := func(body []byte, names ...string) (int64, bool) {
		var o map[string]json.RawMessage
		if json.Unmarshal(body, &o) != nil {
			return 0, false
		}
		for _, name := range names {
			if n, err := strconv.ParseInt(string(o[name]), 10, 64); err == nil && n > 0 {
				return n, true
			}
		}
		return 0, false
	}
	fits := map[string][][]string{
		MaxTokens:           {{MaxTokens}, {MaxCompletionTokens, MaxTokens}, {MaxTokens, MaxCompletionTokens}},
		MaxCompletionTokens: {{MaxCompletionTokens}, {MaxCompletionTokens, MaxTokens}, {MaxTokens, MaxCompletionTokens}},
		BothFields:          {{MaxTokens}, {MaxCompletionTokens}, {MaxCompletionTokens, MaxTokens}, {MaxTokens, MaxCompletionTokens}},
	}
	value := rapid.SampledFrom([]string{"", "null", "0", "1", "40", "70", "2000000"})
	rapid.Check(t, func(t *rapid.T) {
		option := rapid.SampledFrom(OutputFields).Draw(t, "option")
		server := rapid.SampledFrom(fits[option]).Draw(t, "server")
		members := []string{`"model":"m"`}
		for _, name := range []string{MaxTokens, MaxCompletionTokens, "max_output_tokens"} {
			if v := value.Draw(t, name); v != "" {
				members = append(members, fmt.Sprintf("%q:%s", name, v))
			}
		}
		members = rapid.Permutation(members).Draw(t, "order")
		body := "{" + strings.Join(members, ",") + "}"
		e, err := withOptions(t, "openai", Options{OutputField: option}).Estimate(chatCall(body))
		if err != nil {
			t.Fatal(err)
		}
		held, output := e.Stated, int64(-1)
		if held < 0 {
			held = 100 // the model's
		}
		if e.Stated < 0 || e.Unwritten {
			output = held
		}
		if lower := rapid.Int64Range(1, 100).Draw(t, "fit"); lower < held {
			held, output = lower, lower
		}
		sent := []byte(body)
		if output >= 0 {
			sent = asSent(e, output)
		}
		if n, ok := reads(sent, server...); !ok || n > held {
			t.Fatalf("%s\n%s\na server that reads %v takes %d, held is %d", body, sent, server, n, held)
		}
	})
}

func TestWhatAServerAddsIsHeld(t *testing.T) {
	t.Parallel()
	extra := func(n int64) *int64 { return &n }
	estimate := func(preset string, o Options) int64 {
		e, err := withOptions(t, preset, o).Estimate(chatCall(`{"model":"m","messages":[{"role":"user","content":"hi"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		return e.Input
	}
	plain := estimate("openai", Options{InputExtra: extra(0)})
	for _, test := range []struct {
		preset string
		extra  *int64
		want   int64
	}{
		{"openai", extra(300), plain + 300},
		{"vllm", nil, plain + 1024},
		{"vllm", extra(0), plain},
		{"vllm", extra(10_000), plain + 10_000},
	} {
		if got := estimate(test.preset, Options{InputExtra: test.extra}); got != test.want {
			t.Errorf("%s: %d, want %d", test.preset, got, test.want)
		}
	}
}

// TestStreamsAreAskedForUsageWhereThatIsNeeded: Anthropic's page about OpenAI's
// SDK has stream_options, Cohere's Compatibility API refuses it (strandsagents.com,
// Cohere provider), and new-api#418 and llxprt-code#114 are strict servers. Streams of
// Kimi K3 at Together report nothing otherwise (vercel/ai#17986, models.dev#3783).
func TestStreamsAreAskedForUsageWhereThatIsNeeded(t *testing.T) {
	t.Parallel()
	on, off := true, false
	for _, test := range []struct {
		preset, path string
		ask          *bool
		want         bool
	}{
		{"openai", "/v1/chat/completions", nil, true},
		{"openai", "/v1/responses", nil, false},
		{"openai", "/v1/chat/completions", &off, false},
		{"anthropic", "/v1/chat/completions", nil, true},
		{"anthropic", "/v1/messages", nil, false},
		{"cohere", "/compatibility/v1/chat/completions", nil, false},
		{"cohere", "/compatibility/v1/chat/completions", &on, true},
		{"cohere", "/v2/chat", nil, false},
		{"together", "/v1/chat/completions", nil, true},
		{"together", "/v1/completions", nil, true},
		{"together", "/v1/chat/completions", &off, false},
		{"mistral", "/v1/chat/completions", nil, false},
		{"mistral", "/v1/chat/completions", &on, true},
		{"vllm", "/v1/chat/completions", nil, true},
		{"vllm", "/v1/completions", nil, true},
		{"llamacpp", "/v1/chat/completions", &off, false},
	} {
		p := withOptions(t, test.preset, Options{AskUsage: test.ask})
		call := chatCall(`{"model":"m","stream":true,"max_tokens":5}`)
		call.Path = test.path
		e, err := p.Estimate(call)
		if err != nil {
			t.Errorf("%s %s: %v", test.preset, test.path, err)
			continue
		}
		asked := strings.Contains(string(asSent(e, -1)), `"include_usage":true`)
		if asked != test.want || e.HidesUsage() != test.want {
			t.Errorf("%s %s: asked %v, hides %v", test.preset, test.path, asked, e.HidesUsage())
		}
	}
}

func TestAFieldThatTheOperatorAllowsCostsNothing(t *testing.T) {
	t.Parallel()
	const body = `{"model":"m","max_tokens":5,"vendor_flag":{"type":"object"}}`
	_, err := withOptions(t, "vllm", Options{}).Estimate(chatCall(body))
	var unknown UnknownFieldError
	if !errors.As(err, &unknown) || unknown.Name != "vendor_flag" || !errors.Is(err, ErrNotMeterable) {
		t.Errorf("not allowed: %v", err)
	}
	if _, err = withOptions(t, "vllm", Options{AllowFields: []string{"vendor_flag"}}).Estimate(chatCall(body)); err != nil {
		t.Errorf("allowed: %v", err)
	}
	// What is judged stays judged, and a field that stands twice is refused.
	for _, body := range []string{
		`{"model":"m","vendor_flag":1,"vendor_flag":2}`,
		`{"model":"m","vendor_flag":1,"Vendor_Flag":2}`,
		`{"model":"m","vendor_flag":1,"background":true}`,
		`{"model":"m","GUIDED_JSON":1}`,
	} {
		if _, err := withOptions(t, "vllm", Options{AllowFields: []string{"vendor_flag"}}).Estimate(chatCall(body)); err == nil {
			t.Errorf("%s passes", body)
		}
	}
	if p, _ := Lookup("vllm"); p.allowed != nil || p.multiply != 0 {
		t.Error("options change the table")
	}
}

// TestRegionsThatCostMoreAreKnownByTheirHost:
// developers.openai.com/api/docs/guides/data-residency and
// docs.x.ai/developers/advanced-api-usage/regions, November 2026;
// docs.mistral.ai/inference/regional-inference and
// docs.together.ai/docs/serverless/geo-specific-inference, December 2026.
func TestRegionsThatCostMoreAreKnownByTheirHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, host, model string
		multiply, want      int64
	}{
		{"openai", "api.openai.com", "gpt-6-sol", 0, 1000},
		{"openai", "eu.api.openai.com", "gpt-6-sol", 0, 1100},
		{"openai", "EU.api.openai.com", "gpt-5.4", 0, 1100},
		{"openai", "us.api.openai.com", "gpt-5.4-mini-2026-03-17", 0, 1100},
		{"openai", "jp.api.openai.com", "ft:gpt-new", 0, 1100},
		{"openai", "au.api.openai.com", "gpt-5.2", 0, 1000},
		{"openai", "in.api.openai.com", "gpt-5-mini-2025-08-07", 0, 1000},
		{"openai", "eu.api.openai.com", "gpt-4o", 0, 1000},
		{"openai", "ae.api.openai.com", "gpt-6-sol", 0, 1100}, // openai-node, src/internal/data-residency.ts
		{"openai", "SG.api.openai.com.", "gpt-6-sol", 0, 1100},
		{"openai", "xapi.openai.com", "gpt-6-sol", 0, 1000},
		{"openai", "eu.api.openai.com", "gpt-4x", 0, 1100},
		{"openai", "eu.api.openai.com", "o3-pro", 0, 1000},
		{"openai", "eu.api.openai.com", "gpt-5.3-codex-spark", 0, 1000},
		{"openai", "eu.api.openai.com", "gpt-50", 0, 1100},
		{"openai", "eu.api.openai.com.example.com", "gpt-6-sol", 0, 1000},
		{"openai", "eu.api.openai.com", "gpt-6-sol", 1055, 1161}, // 1160.5
		{"xai", "us.api.x.ai", "grok-4.6", 0, 1100},
		{"xai", "us-east-1.api.x.ai", "grok-4.6", 0, 1000},
		{"mistral", "api.eu.mistral.ai", "m", 0, 1100},
		{"mistral", "api.us.mistral.ai", "zai-glm-5-3", 0, 1100},
		{"mistral", "api.eu.mistral.ai", "m", 1100, 1210},
		{"mistral", "api.mistral.ai", "m", 0, 1000},
		{"mistral", "api.mistral.ai", "m", 1100, 1100},
		{"mistral", "api.mistral.ai", "m", 850, 850},
		{"anthropic", "api.anthropic.com", "claude-sonnet-5-5", 1100, 1210},
		{"together", "us-api.together.ai", "zai-org/GLM-5.3", 0, 1250},
		{"together", "CA-api.together.ai", "zai-org/GLM-5.3", 0, 1250},
		{"together", "us-api.together.ai", "zai-org/GLM-5.3", 1100, 1375},
		{"together", "api.together.ai", "zai-org/GLM-5.3", 0, 1000},
		{"together", "api.together.xyz", "zai-org/GLM-5.3", 0, 1000},
	} {
		p := withOptions(t, test.preset, Options{Hosts: []string{"10.0.0.1", test.host}, Multiply: test.multiply})
		call := chatCall(fmt.Sprintf(`{"model":%q,"max_tokens":5}`, test.model))
		e, err := p.Estimate(call)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if e.Permille != test.want {
			t.Errorf("%+v: %d permille", test, e.Permille)
		}
		if e.Asked > e.Permille {
			t.Errorf("%+v: charged %d permille, held %d", test, e.Asked, e.Permille)
		}
	}
}

func TestAFactorForPricesIsReadInPermilleRoundedUp(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1000, "1.1": 1100, "1.10": 1100, "1.0551": 1056, "0.85": 850, "0.0001": 1, "10": 10_000, "+1.5": 1500, "2.": 2000, ".5": 500,
		"": 0, "0": 0, "-1": 0, "10.00001": 0, "1e1": 0, "1_0": 0, "0x1p2": 0, "1/3": 0, "Inf": 0, "NaN": 0, "1.1.1": 0, " 1": 0, "1,1": 0,
		"1.00000000000000000000000000000001": 0,
	} {
		if got, err := ParseMultiply(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
}

// TestAFactorCostsNeverLessThanItSays compares it with rational arithmetic.
func TestAFactorCostsNeverLessThanItSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		multiply := rapid.Int64Range(1, maxMultiply).Draw(t, "multiply")
		host := rapid.SampledFrom([]string{"api.openai.com", "eu.api.openai.com"}).Draw(t, "host")
		p := withOptions(t, "openai", Options{Multiply: multiply, Hosts: []string{host}})
		body := `{"model":"gpt-6-sol","max_tokens":5}`
		factor := int64(1000)
		if rapid.Bool().Draw(t, "priority") {
			body, factor = `{"model":"gpt-6-sol","max_tokens":5,"service_tier":"priority"}`, 2000
		}
		if host != "api.openai.com" {
			factor = factor * 11 / 10
		}
		e, err := p.Estimate(chatCall(body))
		if err != nil {
			t.Fatal(err)
		}
		price := priced(t, "openai", "gpt-6-sol", time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
		u := Usage{Input: rapid.Int64Range(1, 1_000_000).Draw(t, "input"), Output: rapid.Int64Range(0, 100_000).Draw(t, "output"),
			CachedInput: -1, CacheWrite: -1, CacheWrite1h: -1, Nanodollars: -1}
		exact := big.NewRat(price.Cost(u, 1000)-1, 1) // which is rounded up
		exact.Mul(exact, big.NewRat(factor*multiply, 1_000_000))
		cost := price.Cost(u, e.Asked)
		if exact.Cmp(big.NewRat(cost, 1)) > 0 {
			t.Fatalf("charged %d, which is less than %s", cost, exact.FloatString(3))
		}
		if most := price.MaxCost(e, u.Input, u.Output); most < cost {
			t.Fatalf("held %d, charged %d", most, cost)
		}
		n := price.Affords(e, u.Input, cost)
		if n >= 0 && price.MaxCost(e, u.Input, n) > cost {
			t.Fatalf("%d tokens of output cost more than the %d that are there", n, cost)
		}
	})
}

func TestWhatAProviderSaysThatItTookIsMultipliedAsTheOperatorSays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ multiply, reported, want int64 }{
		{0, 100, 100}, {1000, 100, 100}, {1055, 100, 106}, {1055, 0, 0}, {1055, -1, -1}, {900, 7, 7},
	} {
		e := &Estimate{Multiply: test.multiply}
		if got := e.Reported(Usage{Nanodollars: test.reported}).Nanodollars; got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

func TestOptionsThatAreWrongAreRefused(t *testing.T) {
	t.Parallel()
	number := func(n int64) *int64 { return &n }
	for name, o := range map[string]Options{
		"a field that is none":      {OutputField: "max_output_tokens"},
		"less than nothing":         {InputExtra: number(-1)},
		"more than any window":      {InputExtra: number(maxInputExtra + 1)},
		"a factor below nothing":    {Multiply: -1},
		"a factor without bounds":   {Multiply: maxMultiply + 1},
		"a bound of another server": {AllowFields: []string{"n_predict"}},
		"another bound":             {AllowFields: []string{"n_predict"}},
		"a field without a name":    {AllowFields: []string{""}},
		"too many fields":           {AllowFields: slices.Repeat([]string{"f"}, maxAllowFields+1)},
	} {
		for _, p := range All() {
			if _, err := p.With(o); err == nil {
				t.Errorf("%s: %s accepts it", name, p.Name)
			}
		}
	}
}

// TestAFieldThatAnOperatorAllowsChangesNoBound, whatever it holds: operators allow
// fields that the server ignores, or that do not affect what till reads.
func TestAFieldThatAnOperatorAllowsChangesNoBound(t *testing.T) {
	t.Parallel()
	const bounds = `{"max_tokens":1,"max_completion_tokens":1,"max_output_tokens":1,"num_predict":1,"num_ctx":1,"n":1,"candidateCount":1,"budget_tokens":1,"include_usage":true}`
	names := []string{"extra_body", "sampling_params", "vendor_flag"}
	for _, fields := range []map[string]bool{knownFields, ollamaKnown} {
		for name := range fields {
			names = append(names, name)
		}
	}
	for _, to := range []struct{ preset, path, body string }{
		{"openai", "/v1/chat/completions", `{"model":"m","stream":true`},
		{"vllm", "/v1/chat/completions", `{"model":"m","stream":true`},
		{"openai", "/v1/completions", `{"model":"m"`},
		{"openai", "/v1/responses", `{"model":"m"`},
		{"openai", "/v1/embeddings", `{"model":"m"`},
		{"anthropic", "/v1/messages", `{"model":"m"`},
		{"gemini", "/v1beta/models/m:generateContent", `{"labels":{}`},
		{"cohere", "/v2/chat", `{"model":"m"`},
		{"ollama", "/api/chat", `{"model":"m","messages":[{"role":"user","content":"hi"}]`},
		{"ollama", "/api/embed", `{"model":"m","input":"hi"`},
		{"ollama", "/v1/chat/completions", `{"model":"m"`},
	} {
		estimate := func(p *Preset, more string) (*Estimate, error) {
			return p.Estimate(&Call{Method: "POST", Path: to.path, ContentType: "application/json", Body: []byte(to.body + more + "}")})
		}
		plain, err := estimate(withOptions(t, to.preset, Options{}), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if plain.knownFields[name] || new(Preset).allowable(name) != nil {
				continue // read there, or never to be allowed
			}
			p := withOptions(t, to.preset, Options{AllowFields: []string{name}})
			for _, value := range []string{bounds, `{"maxOutputTokens":1}`, "[" + bounds + "]", "1", "0", "true", `"x"`} {
				e, err := estimate(p, fmt.Sprintf(`,%q:%s`, name, value))
				if err != nil {
					continue
				}
				price := &Price{Context: 100_000, MaxOutput: 10_000}
				a, _ := plain.Longest(price, plain.Input)
				b, _ := e.Longest(price, plain.Input)
				if b < a || e.Stated >= 0 && plain.Stated < 0 || e.Answers < plain.Answers || e.Input < plain.Input || e.Permille < plain.Permille || e.HidesUsage() != plain.HidesUsage() && !e.ownOptions {
					t.Errorf("%s%s, %s:%s: an answer of %d, stated %d, %d of them, input %d; without it %d, %d, %d, %d", to.preset, to.path, name, value,
						b, e.Stated, e.Answers, e.Input, a, plain.Stated, plain.Answers, plain.Input)
				}
			}
		}
	}
}
