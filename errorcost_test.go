package till

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// costs checks how many tokens are charged for the answer, which is the upstream's own error,
// however it arrives. With status 200 it is an event of a stream.
func (a *reportedAnswer) costs(t *testing.T, status int, want int64) {
	t.Helper()
	a.stream = status == 200
	for _, n := range []int{1, 1000} {
		u, preset := a.use(t)
		a.answers(t, status, u, preset, http.Header{}, n)
		u.ownError = true
		if tokens, _, _ := u.used(status); tokens != want {
			t.Errorf("%s, by %d bytes: %d tokens, want %d", a.name, n, tokens, want)
		}
	}
}

// TestAnErrorThatShowsWhatAModelWroteCostsTheBound: Groq answers with 400 what does not
// match a schema or a tool, and shows what its model has written
// (console.groq.com/docs/tool-use/overview, groq-typescript#28). Otherwise whoever asks
// for what never matches would read any number of answers for nothing.
func TestAnErrorThatShowsWhatAModelWroteCostsTheBound(t *testing.T) {
	t.Parallel()
	const failed = `{"error":{"message":"Failed to generate JSON. See 'failed_generation' for more details.","type":"invalid_request_error","code":"json_validate_failed","failed_generation":"A long\npoem."}}`
	for _, test := range []struct {
		name   string
		status int
		answer string
		want   int64
	}{
		{"a plain one", 400, failed, heldIn + heldOut},
		{"as a fault of the server", 500, failed, heldIn + heldOut},
		{"in a stream", 200, data(failed), heldIn + heldOut},
		{"with what was used", 400, strings.Replace(failed, "{", `{"usage":{"prompt_tokens":10,"completion_tokens":5},`, 1), 15},
		{"nothing was written", 400, strings.Replace(failed, `A long\npoem.`, "", 1), 0},
		{"the request was wrong", 400, `{"error":{"message":"'messages' is missing","type":"invalid_request_error"}}`, 0},
		{"the request comes back", 422, `{"detail":[{"type":"missing","msg":"Field required","input":{"messages":[{"role":"user","content":"Some words."}]}}]}`, 0},
	} {
		a := reportedAnswer{name: test.name, preset: "groq", path: "/openai/v1/chat/completions", model: "openai/gpt-oss-120b", answer: test.answer}
		a.costs(t, test.status, test.want)
	}
}

// TestAnErrorAfterWorkCostsTheBound: OpenAI answers with 400 what its model could not finish
// within its bound, thoughts included (goclaw#245, litellm#26987), and no page says what it
// bills then. Azure bills a 400 of its content filter or for too long an input, and a 408
// (learn.microsoft.com/azure/ai-services/openai/how-to/manage-costs, "HTTP Error response
// code and billing status"). OpenRouter bills no errors
// (openrouter.ai/docs/features/zero-completion-insurance).
func TestAnErrorAfterWorkCostsTheBound(t *testing.T) {
	t.Parallel()
	const (
		unfinished = `{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.","type":"invalid_request_error","param":null,"code":null}}`
		wrapped    = `{"error":{"message":"litellm.BadRequestError: OpenAIException - Could not finish the message because max_tokens or model output limit was reached.","type":null,"param":null,"code":"400"}}`
		filtered   = `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI\u0027s content management policy. Please modify your prompt and retry. To learn more about our content filtering policies please read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}`
		short      = `{"error":{"code":"content_filter","message":"The response was filtered"}}`
		wrong      = `{"error":{"message":"max_tokens is too large: 200000. This model supports at most 128000 completion tokens.","type":"invalid_request_error","param":"max_tokens","code":"invalid_value"}}`
		late       = `{"error":{"message":"The operation was timeout.","code":"Timeout"}}`
		long       = `{"error":{"message":"This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`
	)
	for _, test := range []struct {
		name, preset string
		status       int
		answer       string
		want         int64
	}{
		{"not finished", "openai", 400, unfinished, heldIn + heldOut},
		{"not finished, as an event", "openai", 200, data(unfinished), heldIn + heldOut},
		{"not finished, through a gateway", "openai", 400, wrapped, heldIn + heldOut},
		{"not finished, with what was used", "openai", 400, strings.Replace(unfinished, "{", `{"usage":{"prompt_tokens":10,"completion_tokens":5},`, 1), 15},
		{"not finished, at OpenRouter", "openrouter", 400, unfinished, 0},
		{"filtered", "openai", 400, filtered, heldIn + heldOut},
		{"filtered, in few words", "openai", 400, short, heldIn + heldOut},
		{"filtered, at OpenRouter", "openrouter", 400, filtered, 0},
		{"too late, at Azure", "azure", 408, late, heldIn + heldOut},
		{"too late", "openai", 408, late, 0},
		{"too late, at a machine at Azure", "machine", 408, late, 0},
		{"too long, at Azure", "azure", 400, long, heldIn + heldOut},
		{"too long, at Azure, as an event", "azure", 200, data(long), heldIn + heldOut},
		{"too long, at a machine at Azure", "machine", 400, long, 0},
		{"too long", "openai", 400, long, 0},
		{"too long, as an event", "openai", 200, data(long), 0},
		{"too late, with what was used", "azure", 408, strings.Replace(late, "{", `{"usage":{"prompt_tokens":10,"completion_tokens":5},`, 1), 15},
		{"too late, at OpenRouter", "openrouter", 408, late, 0},
		{"the request was wrong", "openai", 400, wrong, 0},
		{"the key was wrong", "openai", 401, `{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}`, 0},
		{"the request comes back", "openai", 400, `{"error":{"message":"Invalid value","param":"x"},"input":{"error":{"message":"Could not finish the message because max_tokens"}}}`, 0},
	} {
		a := reportedAnswer{name: test.name, preset: test.preset, answer: test.answer}
		if test.preset == "openrouter" {
			a.path, a.model = "/api/v1/chat/completions", "openai/gpt-5-mini"
		}
		if host := map[string]string{"azure": "name.openai.azure.com:443", "machine": "name.westeurope.CloudApp.azure.com"}[test.preset]; host != "" {
			a.preset, a.host = "openai", host
		}
		a.costs(t, test.status, test.want)
	}
}

// TestAnErrorThatIsPackedThoughNobodyAskedIsRead, as an answer is.
func TestAnErrorThatIsPackedThoughNobodyAskedIsRead(t *testing.T) {
	t.Parallel()
	const filtered = `{"error":{"code":"content_filter","message":"The response was filtered"}}`
	a := reportedAnswer{preset: "openai", answer: string(encode(t, []byte(filtered), "gzip"))}
	u, preset := a.use(t)
	got := a.answers(t, 400, u, preset, http.Header{"Content-Encoding": {"gzip"}}, 1000)
	if tokens, _, _ := u.used(400); tokens != heldIn+heldOut || !strings.Contains(got, "filtered") {
		t.Errorf("%d tokens for %q", tokens, got)
	}
}

// TestAViolationOfXAIsGuidelinesCostsItsFee: $0.05 for one that is caught before anything
// is generated, at the Responses API alone (docs.x.ai/developers/pricing, "Usage Guidelines
// Violation Fee"). The error is as UKGovernmentBEIS/inspect_ai#2267 and
// Wei-Shaw/sub2api#5359 report it.
func TestAViolationOfXAIsGuidelinesCostsItsFee(t *testing.T) {
	t.Parallel()
	const (
		fee      = 50_000_000
		violated = `{"code":"The caller does not have permission to execute the specified operation","error":"Content violates usage guidelines. Team: 00000000-0000-0000-0000-000000000000, API key ID: 00000000-0000-0000-0000-000000000000, Model: grok-4.6, Failed check: SAFETY_CHECK_TYPE_BIO"}`
		denied   = `{"code":"permission-denied","error":"Access to the chat endpoint is denied"}`
		inObject = `{"error":{"code":"permission-denied","message":"Content violates usage guidelines. "}}`
		failed   = `{"type":"response.failed","response":{"status":"failed","error":{"code":"permission-denied","message":"Content violates usage guidelines."}}}`
	)
	for _, test := range []struct {
		name, preset, path string
		status             int
		answer             string
		multiply           int64
		want               int64
	}{
		{"a violation", "xai", "/v1/responses", 403, violated, 0, fee},
		{"a violation, as an object", "xai", "/v1/responses", 403, inObject, 0, fee},
		{"a violation, with another status", "xai", "/v1/responses", 400, violated, 0, fee},
		{"a violation, as an event", "xai", "/v1/responses", 200, data(failed), 0, fee},
		{"a violation, at a factor", "xai", "/v1/responses", 403, violated, 1100, 55_000_000},
		{"an account without access", "xai", "/v1/responses", 403, denied, 0, 0},
		{"another endpoint", "xai", "/v1/chat/completions", 403, violated, 0, 0},
		{"another vendor", "openai", "/v1/responses", 403, violated, 0, 0},
	} {
		for _, n := range []int{1, 1000} {
			a := reportedAnswer{name: test.name, preset: test.preset, path: test.path, model: map[string]string{"xai": "grok-4.6", "openai": "gpt-6-sol"}[test.preset],
				stream: test.status == 200, answer: test.answer, multiply: test.multiply}
			u, preset := a.use(t)
			a.answers(t, test.status, u, preset, http.Header{}, n)
			u.ownError = true
			if tokens, nano, _ := u.used(test.status); tokens != 0 || nano != test.want {
				t.Errorf("%s, by %d bytes: %d tokens, %d nano-dollars, want %d", test.name, n, tokens, nano, test.want)
			}
			if held := u.bound(u.natural)[record.Nanodollars]; held < test.want {
				t.Errorf("%s: held %d", test.name, held)
			}
		}
	}

	a := reportedAnswer{preset: "xai", path: "/v1/responses", model: "grok-4.6", stream: true, left: true, answer: data(`{"type":"response.output_text.delta","delta":"Some words."}`)}
	u, preset := a.use(t)
	tokens := u.price.MaxCost(u.estimate, heldIn, heldOut)
	if held := u.bound(heldOut)[record.Nanodollars]; held != tokens+fee {
		t.Errorf("held %d, want %d and the fee", held, tokens)
	}
	u.mayFit, u.natural = true, 1_000_000
	if n, ok := u.fitted(record.Amounts{record.Tokens: 1 << 40, record.Nanodollars: fee + u.price.MaxCost(u.estimate, heldIn, 5000)}); n != 5000 || !ok {
		t.Errorf("fitted to %d, %v", n, ok)
	}
	if _, ok := u.fitted(record.Amounts{record.Tokens: 1 << 40, record.Nanodollars: fee}); ok {
		t.Error("fitted into the fee alone")
	}
	for _, test := range []struct {
		natural, spend int64
		fits, fee      bool
	}{
		{5000, fee / 2, true, true},
		{5000, fee / 2, false, true},
		{1_000_000, fee / 2, true, true}, // it can be fitted, and the fee remains
		{1_000_000, 2 * fee, false, false},
	} {
		u.natural, u.mayFit, u.maxSpend = test.natural, test.fits, test.spend
		refusal := u.boundToRequestSpend(&record.Key{ID: "k"})
		if refusal == nil || !strings.Contains(refusal.Message, limiter.LowerMaxTokens) || strings.Contains(refusal.Message, "$0.05 of its cost is a fee") != test.fee {
			t.Errorf("%+v: %+v", test, refusal)
		}
	}
	u.natural = heldOut
	if _, nano, _ := u.used(0); nano != tokens+fee {
		t.Errorf("without an answer: charged %d, want all that is held", nano)
	}
	for name, answer := range map[string]string{"nothing": "", "its name": data(`{"type":"response.created","response":{"id":"resp_1","status":"in_progress","usage":null}}`)} {
		b := a
		b.answer = answer
		b.reads(t, u, preset, http.Header{}, 1000)
		if _, nano, _ := u.used(200); nano != tokens+fee {
			t.Errorf("after %s of an answer: charged %d, want all that is held", name, nano)
		}
	}
	a.reads(t, u, preset, http.Header{}, 1000)
	if _, nano, _ := u.used(200); nano != tokens {
		t.Errorf("after an answer has begun: charged %d, want %d without the fee", nano, tokens)
	}
}
