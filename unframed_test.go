package till

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// TestAStreamThatEndsWithItsConnectionIsWholeOnlyIfItSaysSo: some vendors report in each
// event what was used so far, and without a length or chunks nothing but the end of the
// connection ends the answer, which a broken one looks like.
func TestAStreamThatEndsWithItsConnectionIsWholeOnlyIfItSaysSo(t *testing.T) {
	t.Parallel()
	const (
		begun   = "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":1}}\n\n"
		done    = "data: [DONE]\n\n"
		lines   = "{\"response\":\"a\",\"done\":false}\n{\"done\":true,\"prompt_eval_count\":10,\"eval_count\":1}\n"
		element = `{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":1}}`
		single  = `{"usage":{"prompt_tokens":10,"completion_tokens":1},"choices":[]}`
		all     = 11
		bound   = 1100
	)
	for name, test := range map[string]struct {
		preset, kind, body string
		chunked            bool
		want               int64
	}{
		"events that break off":        {"openai", "text/event-stream", begun, false, bound},
		"events that end":              {"openai", "text/event-stream", begun + done, false, all},
		"events in chunks":             {"openai", "text/event-stream", begun, true, all},
		"lines that end":               {"ollama", "application/x-ndjson", lines, false, all},
		"a list that breaks off":       {"cohere", "application/json", "[" + element, false, bound},
		"a list that ends":             {"cohere", "application/json", "[" + element + "]", false, all},
		"a single text":                {"openai", "application/json", single, false, all},
		"a single text without an end": {"openai", "application/json", single[:len(single)-1], false, all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			preset, _ := upstream.Lookup(test.preset)
			res := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1, Header: http.Header{"Content-Type": {test.kind}}, Body: io.NopCloser(strings.NewReader(test.body))}
			if test.chunked {
				res.TransferEncoding = []string{"chunked"}
			}
			u := &usage{estimate: &upstream.Estimate{Answers: 1, Permille: 1000, Asked: 1000}, input: 1000, natural: 100, output: -1}
			u.meterAnswer(res, preset, test.kind != "application/json" || strings.HasPrefix(test.body, "["))
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			if tokens, _, kinds := u.charge(200); tokens != test.want {
				t.Errorf("charged %d tokens, want %d: %+v", tokens, test.want, kinds)
			}
		})
	}
}
