package till

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

func TestAnAnswerIsChargedAtTheDearerOfTheModelsAskedForAndAnswering(t *testing.T) {
	t.Parallel()
	prices := upstream.BuiltInPrices()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	const report = `"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}`
	const mini, full = 1000*250 + 100*2000, 1000*1250 + 100*10000
	for _, test := range []struct {
		name, asked, answer string
		permille            int64
		want                int64
	}{
		{"the same", "gpt-5-mini", `{"model":"gpt-5-mini",` + report, 1000, mini},
		{"a snapshot", "gpt-5-mini", `{"model":"gpt-5-mini-2025-08-07",` + report, 1000, mini},
		{"a dearer one", "gpt-5-mini", `{"model":"gpt-5",` + report, 1000, full},
		{"a cheaper one", "gpt-5", `{"model":"gpt-5-mini",` + report, 1000, full},
		{"an unknown one", "gpt-5-mini", `{"model":"gpt-9",` + report, 1000, mini},
		{"none", "gpt-5-mini", `{` + report, 1000, mini},
		{"flex, as the answer says", "gpt-5-mini", `{"service_tier":"flex",` + report, 1000, mini / 2},
		{"flex was asked for and not given", "gpt-5-mini", `{"service_tier":"default",` + report, 1000, mini},
		{"cheaper, as the answer says, though nobody asked", "gpt-5-mini", `{"service_tier":"flex",` + report, 1000, mini},
		{"what the client sent comes back", "gpt-5-mini", `{"metadata":{"service_tier":"flex","model":"gpt-5-nano"},` + report, 1000, mini},
		{"what the client sent comes back last", "gpt-5-mini", strings.TrimSuffix(`{"model":"gpt-5",`+report, "}") + `,"metadata":{"service_tier":"flex","model":"gpt-5-nano"}}`, 1000, full},
		{"priority was not asked for and given", "gpt-5-mini", `{"service_tier":"priority",` + report, 1000, 2 * mini},
		{"priority", "gpt-5-mini", `{"service_tier":"priority",` + report, 2000, 2 * mini},
		{"priority was asked for and not given", "gpt-5-mini", `{"service_tier":"default",` + report, 2000, mini},
	} {
		price, ok := prices.Find("openai", test.asked, now)
		if !ok {
			t.Fatal(test.asked)
		}
		u := &usage{
			estimate: &upstream.Estimate{Model: test.asked, Permille: test.permille, Asked: test.permille, Flex: strings.HasPrefix(test.name, "flex"), Priority: test.permille == 2000}, price: price, priced: true, prices: prices,
			provider: "openai", began: now, now: func() time.Time { return now }, meter: upstream.NewMeter(false), readToEnd: true,
		}
		u.meter.Write([]byte(test.answer))
		u.meter.Close()
		if tokens, nano, measured := u.used(200); tokens != 1100 || nano != test.want || !measured {
			t.Errorf("%s: %d tokens, %d nano-dollars, measured %v; want %d", test.name, tokens, nano, measured, test.want)
		}
	}
}

// TestADearerModelIsChargedByItsOwnClockTierAndRegion: the discounts and surcharges of the
// model that was asked for do not apply to the one that answered.
func TestADearerModelIsChargedByItsOwnClockTierAndRegion(t *testing.T) {
	t.Parallel()
	night := time.Date(2026, 11, 24, 22, 0, 0, 0, time.UTC)
	prices, err := upstream.BuiltInPrices().With(strings.NewReader(`{"schema":"till.prices/1","models":[
		{"provider":"openai","id":"night","input":1,"output":10,"off_peak":{"permille":500,"utc_offset_minutes":0,"weekday_peaks":["09:00-18:00"]}},
		{"provider":"openai","id":"day","input":2,"output":20},
		{"provider":"openai","id":"dear-night","input":3,"output":30,"off_peak":{"permille":750,"utc_offset_minutes":0,"weekday_peaks":["09:00-18:00"]}},
		{"provider":"openai","id":"gpt-5.5-new","input":2,"output":20}]}`))
	if err != nil {
		t.Fatal(err)
	}
	base, _ := upstream.Lookup("openai")
	const a, b = 1000 * 1000, 100 * 10000 // the cheapest model's input and output
	for _, test := range []struct {
		name, host, asked, tier, answered, served string
		want                                      int64
	}{
		{"the same, at night", "api.openai.com", "night", "", "night", "", (a + b) / 2},
		{"one without a discount", "api.openai.com", "night", "", "day", "", 2 * (a + b)},
		{"one with another discount", "api.openai.com", "night", "", "dear-night", "", 3 * (a + b) * 3 / 4},
		{"one with a discount, for one without", "api.openai.com", "day", "", "dear-night", "", 3 * (a + b) * 3 / 4},
		{"a dearer priority", "api.openai.com", "day", "priority", "gpt-5.5-new", "priority", 2 * (a + b) * 5 / 2},
		{"a dearer priority that nobody asked for", "api.openai.com", "night", "", "gpt-5.5-new", "priority", 2 * (a + b) * 5 / 2},
		{"one whose region costs more", "eu.api.openai.com", "gpt-4o-mini", "", "day", "", 2 * (a + b) * 11 / 10},
	} {
		preset, err := base.With(upstream.Options{Hosts: []string{test.host}})
		if err != nil {
			t.Fatal(err)
		}
		body := `{"model":"` + test.asked + `","messages":[],"max_tokens":100`
		if test.tier != "" {
			body += `,"service_tier":"` + test.tier + `"`
		}
		e, err := preset.Estimate(&upstream.Call{Method: "POST", Path: "/v1/chat/completions", Body: []byte(body + "}")})
		if err != nil {
			t.Fatal(err)
		}
		price, ok := prices.Find("openai", test.asked, night)
		if !ok {
			t.Fatal(test.asked)
		}
		u := &usage{estimate: e, price: price, priced: true, prices: prices, provider: "openai", began: night, now: func() time.Time { return night },
			meter: preset.Meter(false), readToEnd: true, natural: 100, output: -1}
		u.meter.Write([]byte(`{"model":"` + test.answered + `","service_tier":"` + test.served + `","usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}`))
		u.meter.Close()
		if _, nano, measured := u.used(200); nano != test.want || !measured {
			t.Errorf("%s: %d nano-dollars, measured %v; want %d", test.name, nano, measured, test.want)
		}
	}
}

// TestARegionIsHeldForAndChargedWhenTheAnswerSaysSo: a workspace may have a default
// that the request does not show.
func TestARegionIsHeldForAndChargedWhenTheAnswerSaysSo(t *testing.T) {
	t.Parallel()
	preset, ok := upstream.Lookup("anthropic")
	if !ok {
		t.Fatal("no preset")
	}
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	price, ok := upstream.BuiltInPrices().Find("anthropic", "claude-sonnet-5-5", now)
	if !ok {
		t.Fatal("no price")
	}
	const plain = 1000*2_000 + 100*10_000 // nano-dollars
	for _, test := range []struct {
		name, asks, says string
		charged, held    int64 // permille
	}{
		{"nobody says", "", "", 1000, 1100},
		{"the answer says so", "", `"inference_geo":"us",`, 1100, 1100},
		{"anywhere, as the answer says", "", `"inference_geo":"global",`, 1000, 1100},
		{"it does not say", "", `"inference_geo":"not_available",`, 1000, 1100},
		{"anywhere was asked for", `"inference_geo":"global",`, "", 1000, 1000},
		{"a region was asked for", `"inference_geo":"us",`, "", 1100, 1100},
	} {
		e, err := preset.Estimate(&upstream.Call{Method: "POST", Path: "/v1/messages", ContentType: "application/json",
			Body: []byte(`{"model":"claude-sonnet-5-5",` + test.asks + `"max_tokens":100,"messages":[]}`)})
		if err != nil {
			t.Fatal(err)
		}
		u := &usage{estimate: e, price: price, priced: true, prices: upstream.BuiltInPrices(), provider: "anthropic", began: now,
			now: func() time.Time { return now }, input: 1000, meter: preset.Meter(false), readToEnd: true}
		u.meter.Write([]byte(`{"model":"claude-sonnet-5-5","usage":{` + test.says + `"input_tokens":1000,"output_tokens":100}}`))
		u.meter.Close()
		if _, nano, _ := u.used(200); nano != plain*test.charged/1000 {
			t.Errorf("%s: charged %d, want %d permille of %d", test.name, nano, test.charged, plain)
		}
		if held := u.bound(100)[record.Nanodollars]; held != plain*test.held/1000 {
			t.Errorf("%s: held %d, want %d permille of %d", test.name, held, test.held, plain)
		}
	}
}

// TestKindsOfTokensAddUpToWhatIsCharged, even if an upstream's numbers contradict each
// other.
func TestKindsOfTokensAddUpToWhatIsCharged(t *testing.T) {
	t.Parallel()
	for _, report := range []string{
		`{"prompt_tokens":10,"completion_tokens":5}`,
		`{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":7,"cache_write_tokens":2}}`,
		`{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":700,"cache_write_tokens":200}}`,
		`{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cache_write_tokens":200}}`,
		`{"input_tokens":1,"cache_read_input_tokens":3,"cache_creation_input_tokens":6,"output_tokens":5}`,
		`{}`,
	} {
		u := &usage{estimate: &upstream.Estimate{Answers: 1, Permille: 1000, Asked: 1000}, input: 10, natural: 100, output: -1, meter: upstream.NewMeter(false), readToEnd: true}
		u.meter.Write([]byte(`{"usage":` + report + `}`))
		u.meter.Close()
		tokens, _, k := u.charge(200)
		if sum := k.Input + k.CachedInput + k.CacheWrite + k.Output + k.Unmeasured; sum != tokens || tokens == 0 {
			t.Errorf("%s: kinds %+v add up to %d, charged are %d", report, k, sum, tokens)
		}
	}
}

// TestAnAnswerIsNotFittedBelowItsThoughts: the vendor would refuse it.
func TestAnAnswerIsNotFittedBelowItsThoughts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ stated, thinking, left, want int64 }{
		{8000, 0, 1000, 1000}, {8000, 4000, 5000, 5000}, {8000, 4000, 4001, 4001}, {8000, 4000, 4000, -1}, {200, 0, 200, 200}, {8000, 9000, 1000, 1000},
	} {
		u := &usage{estimate: &upstream.Estimate{Answers: 1, Permille: 1000, Stated: test.stated, Thinking: test.thinking}, mayFit: true, natural: test.stated}
		n, ok := u.fitted(record.Amounts{record.Tokens: test.left})
		if !ok {
			n = -1
		}
		if n != test.want {
			t.Errorf("%+v: fitted to %d", test, n)
		}
	}
}

// TestAStreamThatIsMadeShorterStatesNoLength: a client would wait for what was taken
// out.
func TestAStreamThatIsMadeShorterStatesNoLength(t *testing.T) {
	t.Parallel()
	preset, ok := upstream.Lookup("openai")
	if !ok {
		t.Fatal("no preset")
	}
	e, err := preset.Estimate(&upstream.Call{Method: "POST", Path: "/v1/chat/completions", Body: []byte(`{"model":"m","messages":[],"stream":true}`)})
	if err != nil {
		t.Fatal(err)
	}
	res := &http.Response{StatusCode: 200, ContentLength: 5, Header: http.Header{"Content-Length": {"5"}}, Body: http.NoBody}
	(&usage{estimate: e}).meterAnswer(res, preset, true)
	if res.ContentLength >= 0 || res.Header.Get("Content-Length") != "" {
		t.Errorf("it says that it is %d bytes long, %v", res.ContentLength, res.Header)
	}
}

// TestWhoHangsUpAfterTheLastEventPaysWhatWasUsed: many clients do not wait for
// the end of the connection.
func TestWhoHangsUpAfterTheLastEventPaysWhatWasUsed(t *testing.T) {
	t.Parallel()
	const report = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\n"
	for _, test := range []struct {
		name, stream string
		want         int64
	}{
		{"after the last event", report + "data: [DONE]\n\n", 15},
		{"before it", report, 1100},
		{"with words that look like it", "data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n", 1100},
		{"after the last event, and nothing was reported", "data: [DONE]\n\n", 1100},
	} {
		for _, hidden := range []bool{false, true} {
			u := &usage{estimate: &upstream.Estimate{Answers: 1, Permille: 1000, Asked: 1000}, input: 1000, natural: 100, output: -1, meter: upstream.NewMeter(true)}
			if hidden {
				b := make([]byte, len(test.stream))
				stream := u.meter.Hide(io.NopCloser(strings.NewReader(test.stream)))
				if _, err := stream.Read(b); err != nil && err != io.EOF {
					t.Fatal(err)
				}
			} else {
				u.meter.Write([]byte(test.stream))
			}
			if tokens, _, _ := u.used(200); tokens != test.want {
				t.Errorf("%s, hidden %v: %d tokens, want %d", test.name, hidden, tokens, test.want)
			}
		}
	}
}

// TestInputThatWasReportedIsExact: Anthropic states the input in message_start, and
// Gemini in every chunk; only what is still unknown is charged at its bound.
func TestInputThatWasReportedIsExact(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	const (
		start  = `data: {"type":"message_start","message":{"model":"claude-sonnet-5-5","usage":{INPUT,"output_tokens":1}}}` + "\n\n"
		cached = `"input_tokens":2,"cache_creation_input_tokens":500,"cache_read_input_tokens":100000`
		bound  = 200_000 * 2_500 * 11 / 10 // nano-dollars: all of it written to a cache, in a region
		output = 32_000 * 10_000
	)
	for _, test := range []struct {
		name, preset, model, stream string
		tokens, nano                int64
		kinds                       record.TokenKinds
	}{
		{"Anthropic, most of it cached", "anthropic", "claude-sonnet-5-5", strings.Replace(start, "INPUT", cached, 1),
			132_502, 2*2_000 + 500*2_500 + 100_000*100 + output, record.TokenKinds{Input: 2, CacheWrite: 500, CachedInput: 100_000, Unmeasured: 32_000}},
		{"Anthropic, in a region", "anthropic", "claude-sonnet-5-5", strings.Replace(start, "INPUT", `"inference_geo":"us","input_tokens":50000`, 1),
			82_000, (50_000*2_000 + output) * 11 / 10, record.TokenKinds{Input: 50_000, Unmeasured: 32_000}},
		{"Anthropic, of another model that is dearer", "anthropic", "claude-sonnet-5-5", strings.Replace(strings.Replace(start, "INPUT", `"input_tokens":50000`, 1), "sonnet-5-5", "opus-5-5", 1),
			82_000, 50_000*4_000 + 2*output, record.TokenKinds{Input: 50_000, Unmeasured: 32_000}},
		{"Anthropic's shape, with zeros that are corrected later", "anthropic", "claude-sonnet-5-5", strings.Replace(start, "INPUT", `"input_tokens":0`, 1),
			232_000, bound + output*11/10, record.TokenKinds{Unmeasured: 232_000}},
		{"Anthropic's shape, with what cannot be", "anthropic", "claude-sonnet-5-5", strings.Replace(start, "INPUT", `"input_tokens":99`, 1),
			232_000, bound + output*11/10, record.TokenKinds{Unmeasured: 232_000}},
		{"Anthropic, more than its bound", "anthropic", "claude-sonnet-5-5", strings.Replace(start, "INPUT", `"input_tokens":300000`, 1),
			332_000, 300_000*2_000 + output, record.TokenKinds{Input: 300_000, Unmeasured: 32_000}},
		{"Anthropic, before it said anything", "anthropic", "claude-sonnet-5-5", "event: ping\ndata: {\"type\":\"ping\"}\n\n",
			232_000, bound + output*11/10, record.TokenKinds{Unmeasured: 232_000}},
		{"Gemini", "gemini", "gemini-2.5-flash", `data: {"candidates":[],"usageMetadata":{"promptTokenCount":15000,"cachedContentTokenCount":14000,"totalTokenCount":15000}}` + "\n\n",
			47_000, 1000*300 + 14_000*30 + 32_000*2_500, record.TokenKinds{Input: 1000, CachedInput: 14_000, Unmeasured: 32_000}},
		{"a gateway that may only guess", "openai", "gpt-6-sol", `data: {"choices":[],"usage":{"prompt_tokens":15000}}` + "\n\n",
			232_000, 200_000*2_500 + output, record.TokenKinds{Unmeasured: 232_000}},
	} {
		preset, ok := upstream.Lookup(test.preset)
		price, known := upstream.BuiltInPrices().Find(test.preset, test.model, now)
		if !ok || !known {
			t.Fatal(test.name)
		}
		e := &upstream.Estimate{Model: test.model, Answers: 1, Permille: 1000, Asked: 1000, Cached: true}
		if test.preset == "anthropic" {
			e.Permille = 1100
		}
		u := &usage{estimate: e, price: price, priced: true, prices: upstream.BuiltInPrices(), provider: test.preset, began: now,
			now: func() time.Time { return now }, input: 200_000, natural: 32_000, output: -1, leastInput: 100}
		res := &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(test.stream + "data: {}\n\n"))}
		u.meterAnswer(res, preset, true)
		if _, err := io.CopyN(io.Discard, res.Body, int64(len(test.stream))); err != nil {
			t.Fatal(err)
		}
		if tokens, nano, kinds := u.charge(200); tokens != test.tokens || nano != test.nano || kinds != test.kinds {
			t.Errorf("%s: %d tokens, %d nano-dollars, %+v; want %d, %d, %+v", test.name, tokens, nano, kinds, test.tokens, test.nano, test.kinds)
		}
	}
}

// TestTheFirstOfSeveralRoundsIsNotTheWholeInput: each search of Anthropic's tool_search has
// the model read its input again, and message_start can count only what was read before it
// (platform.claude.com/docs/en/agents-and-tools/tool-use/tool-search-tool;
// BetaUsage.iterations in @anthropic-ai/sdk 1.12.0).
func TestTheFirstOfSeveralRoundsIsNotTheWholeInput(t *testing.T) {
	t.Parallel()
	const start = `{"type":"message_start","message":{"model":"claude-sonnet-5-5","usage":{"input_tokens":15000,"output_tokens":1}}}`
	const end = `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":45000,"output_tokens":5}}`
	for _, test := range []struct {
		tool   string
		left   bool
		tokens int64
		kinds  record.TokenKinds
	}{
		{"", true, 15_000 + heldOut, record.TokenKinds{Input: 15_000, Unmeasured: heldOut}},
		{`{"type":"tool_search_tool_bm25_20251119","name":"tool_search_tool_bm25"}`, true, 200_000 + heldOut, record.TokenKinds{Unmeasured: 200_000 + heldOut}},
		{`{"type":"tool_search_tool_bm25_20251119","name":"tool_search_tool_bm25"}`, false, 45_005, record.TokenKinds{Input: 45_000, Output: 5}},
	} {
		a := reportedAnswer{name: test.tool, preset: "anthropic", path: "/v1/messages", model: "claude-sonnet-5-5", asks: `,"max_tokens":100,"tools":[` + test.tool + `]`,
			stream: true, answer: data(start), left: true}
		if !test.left {
			a.answer, a.left = data(start, end, `{"type":"message_stop"}`), false
		}
		u, preset := a.use(t)
		u.input = 200_000
		a.reads(t, u, preset, http.Header{}, 1000)
		if tokens, _, kinds := u.charge(200); tokens != test.tokens || kinds != test.kinds {
			t.Errorf("%q, left %v: %d tokens, %+v; want %d, %+v", test.tool, test.left, tokens, kinds, test.tokens, test.kinds)
		}
	}
}

// TestAnAnswerThatBreaksOffCostsTheBoundOfWhatAnswered: the first event of a
// stream names a model, or a tier, that is dearer than what was asked for.
func TestAnAnswerThatBreaksOffCostsTheBoundOfWhatAnswered(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	prices := upstream.BuiltInPrices()
	price, ok := prices.Find("openai", "gpt-5-mini", now)
	if !ok {
		t.Fatal("no price")
	}
	const mini, full = 1000*250 + 100*2000, 1000*1250 + 100*10000
	for _, test := range []struct {
		name, begins string
		want         int64
	}{
		{"the same", `"model":"gpt-5-mini"`, mini},
		{"a dearer one", `"model":"gpt-5"`, full},
		{"a cheaper one", `"model":"gpt-5-nano"`, mini},
		{"with priority", `"model":"gpt-5-mini","service_tier":"priority"`, 2 * mini},
		{"with priority, of a dearer one", `"model":"gpt-5","service_tier":"priority"`, 2 * full},
		{"with a running count, most of it cached", `"model":"gpt-5-mini","usage":{"prompt_tokens":900,"prompt_tokens_details":{"cached_tokens":900},"completion_tokens":2}`, mini},
	} {
		u := &usage{estimate: &upstream.Estimate{Model: "gpt-5-mini", Answers: 1, Permille: 1000, Asked: 1000}, price: price, priced: true, prices: prices,
			provider: "openai", began: now, now: func() time.Time { return now }, input: 1000, natural: 100, output: -1, meter: upstream.NewMeter(true)}
		u.meter.Write([]byte("data: {" + test.begins + `,"choices":[{"delta":{"content":"Some"}}]}` + "\n\n"))
		if tokens, nano, measured := u.used(200); tokens != 1100 || nano != test.want || measured {
			t.Errorf("%s: %d tokens, %d nano-dollars, want %d", test.name, tokens, nano, test.want)
		}
	}
}
