package till

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// lockstep is a client that may make one request at a time, and makes the next as soon
// as it knows the end of an answer, while the handler of the first is still busy. It
// takes the place of the connection.
type lockstep struct {
	t *testing.T
	http.ResponseWriter
	k    *limiter.Live
	got  strings.Builder
	over func(got string) bool // whether the answer is complete
	may  func(got string) bool // whether nothing more is asked of the upstream
	next int                   // requests that were made after the first
}

// look makes the next request, which is admitted only if the answer is over.
func (c *lockstep) look(over bool) {
	var g limiter.Grant
	ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "GET", Path: "/"}
	refusal := c.k.Reserve(context.Background(), &ask, &g)
	switch {
	case over && refusal != nil:
		c.t.Errorf("behind %q the next request is refused: %s", c.got.String(), refusal.Message)
	case over:
		c.next++
	case refusal == nil && !c.may(c.got.String()):
		c.t.Errorf("behind %q a second request is admitted", c.got.String())
	}
	if refusal == nil {
		g.Cancel()
	}
}

func (c *lockstep) WriteHeader(status int) {
	c.ResponseWriter.WriteHeader(status)
	c.look(c.over(""))
}

func (c *lockstep) Write(p []byte) (int, error) {
	for _, b := range p {
		c.got.WriteByte(b)
	}
	c.look(c.over(c.got.String()))
	return len(p), nil
}

// TestThePlaceOfARequestIsFreeOnceItsClientKnowsTheEnd of the answer, and not before:
// max_concurrency refuses nobody who asks for one thing after the other.
func TestThePlaceOfARequestIsFreeOnceItsClientKnowsTheEnd(t *testing.T) {
	t.Parallel()
	const (
		chat      = "data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n"
		report    = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}\n\n"
		done      = "data: [DONE]\n\n"
		messages  = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":2}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n"
		responses = "event: response.created\ndata: {\"type\":\"response.created\"}\n\nevent: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":2}}}\n"
		text      = "an answer that takes some pieces"
	)
	type write = func(w http.ResponseWriter)
	sized := func(status int, text string) write {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text) // its reader reports what is missing
		}
	}
	stream := func(kind, text string) write {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", kind)
			_ = http.NewResponseController(w).Flush() // before its length is known
			_, _ = io.WriteString(w, text)
		}
	}
	const sse = "text/event-stream"
	after := func(end string) func(string) bool {
		return func(got string) bool { return strings.Contains(got, end) }
	}
	anyhow := func(string) bool { return true }
	atOnce := func(got string) bool { return got == "" } // with the header
	for name, test := range map[string]struct {
		method string
		preset string
		answer write
		guard  bool
		from   bool                  // the guarded handler has its answer read from somewhere
		meters bool                  // the key has a limit in tokens
		may    func(got string) bool // nothing more is asked of the upstream, before that; nil if never
		over   func(got string) bool // nil if the client learns of the end after the handler
	}{
		"of a known length":             {answer: sized(200, text), over: after(text)},
		"metered, of a known length":    {preset: "openai", answer: sized(200, `{"usage":{"prompt_tokens":9,"completion_tokens":2}}`), meters: true, over: after("}}")},
		"an error that is searched":     {answer: sized(404, text), over: after(text)},
		"a long error":                  {answer: sized(500, strings.Repeat(text, 5000)), over: after(strings.Repeat(text, 5000))},
		"a refusal of till's own":       {may: anyhow, answer: sized(401, text), over: after("\"request_id\":\"")},
		"to HEAD":                       {method: "HEAD", answer: sized(200, text), over: atOnce},
		"without content":               {answer: func(w http.ResponseWriter) { w.WriteHeader(204) }, over: atOnce},
		"not modified":                  {answer: func(w http.ResponseWriter) { w.WriteHeader(304) }, over: atOnce},
		"empty":                         {answer: sized(200, ""), over: atOnce},
		"of no known length":            {answer: stream("text/plain", text), may: after(text)},
		"events without an end":         {answer: stream(sse, "data: 1\n\ndata: 2\n\n"), may: after("2\n")},
		"chat":                          {preset: "openai", answer: stream(sse, chat+report+done), over: after("}\n\ndata: [DONE]")},
		"chat that says no usage":       {preset: "openai", answer: stream(sse, chat+done), over: after("}\n\ndata: [DONE]")},
		"chat at a generic API":         {answer: stream(sse, chat+done), over: after("}\n\ndata: [DONE]")},
		"metered chat":                  {preset: "openai", answer: stream(sse, chat+report+done), meters: true, over: after("}\n\ndata: [DONE]")},
		"messages":                      {preset: "anthropic", answer: stream(sse, messages), over: after("message_stop\"}\n")},
		"responses":                     {preset: "openai", answer: stream(sse, responses), over: after("}}}\n")},
		"lines":                         {preset: "ollama", answer: stream("application/x-ndjson", "{\"done\":false}\n{\"done\":true,\"eval_count\":2,\"prompt_eval_count\":9}\n"), over: after("9}\n")},
		"guarded":                       {guard: true, answer: sized(200, text), over: after(text)},
		"guarded, read from somewhere":  {guard: true, from: true, answer: sized(200, text), over: after(text)},
		"guarded, a single byte":        {guard: true, from: true, answer: sized(200, "x"), over: after("x")},
		"guarded, to HEAD":              {guard: true, method: "HEAD", answer: sized(200, text), over: atOnce},
		"guarded, without content":      {guard: true, answer: func(w http.ResponseWriter) { w.WriteHeader(204) }, over: atOnce},
		"guarded, of no known length":   {guard: true, answer: stream("text/plain", text), may: after(text)},
		"guarded, a handler that fails": {guard: true, may: anyhow, over: after("\"request_id\":\"")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, k, x := oneAtATime(t, test.preset)
			h.Guard = test.guard
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { test.answer(w) }))
			t.Cleanup(service.Close)
			if test.meters {
				x.usage = &usage{estimate: &upstream.Estimate{Answers: 1, Permille: 1000, Asked: 1000, Stream: strings.Contains(name, "chat")}, input: 1000, natural: 100, output: -1}
			}
			next := func(w http.ResponseWriter, r *http.Request) error {
				if test.answer == nil {
					return caddyhttp.Error(http.StatusBadGateway, errors.New("gone"))
				}
				x.dispatched.Store(true)
				out, err := http.NewRequestWithContext(r.Context(), r.Method, service.URL, nil)
				if err != nil {
					return err
				}
				res, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(out)
				if err != nil {
					return err
				}
				if !test.guard {
					res = (&Transport{target: x.target}).admitAnswer(res, out, x, func() {})
				}
				for name, values := range res.Header {
					w.Header()[name] = values
				}
				w.WriteHeader(res.StatusCode)
				if test.from {
					_, err = io.Copy(w, res.Body)
				} else {
					// In small pieces, as an upstream may send them.
					_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{res.Body}, make([]byte, 1+len(text)/5))
				}
				return errors.Join(err, res.Body.Close())
			}
			method := test.method
			if method == "" {
				method = "GET"
			}
			over, may := test.over, test.may
			if over == nil {
				over = func(string) bool { return false }
			}
			if may == nil {
				may = over
			}
			c := &lockstep{t: t, ResponseWriter: httptest.NewRecorder(), k: k, over: over, may: may}
			x.client, x.request = c, httptest.NewRequest(method, "/", nil)
			if err := h.forward(c, x, caddyhttp.HandlerFunc(next)); err != nil {
				t.Errorf("an error left the handler: %v", err)
			}
			if (c.next > 0) != (test.over != nil) {
				t.Errorf("%d requests were made before it was settled", c.next)
			}
			c.look(true) // none of it remains
			if v := k.View(); v.InFlight != 0 {
				t.Errorf("%d in flight", v.InFlight)
			}
		})
	}
}

// oneAtATime is a handler and an admitted request of a key with max_concurrency 1.
func oneAtATime(t *testing.T, preset string) (*Handler, *limiter.Live, *exchange) {
	t.Helper()
	e, o := engineOnBadger(t)
	l, _, err := e.openLimiter(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	to, err := (&Upstream{Preset: preset, To: []string{"http://127.0.0.1:1"}}).provision("mock")
	if err != nil {
		t.Fatal(err)
	}
	e.metrics.giveCounters(to, "mock")
	spec := &record.Key{Upstream: "mock", Custody: "held", Limit: record.NoLimits(), MaxConcurrency: 1}
	spec.Limit[record.Activations] = 100_000
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup}); err != nil {
		t.Fatal(err)
	}
	k, refusal := l.Find(t.Context(), lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	x := &exchange{target: to, credential: newCredential(token.NewSecret("sk-real-0123456789")), clientCtx: t.Context(), location: location{path: "/", out: "/"}}
	ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "GET", Path: "/", OnCut: x.stop}
	if refusal := k.Reserve(t.Context(), &ask, &x.grant); refusal != nil {
		t.Fatal(refusal)
	}
	return &Handler{metrics: e.metrics, logger: zap.NewNop()}, k, x
}

// TestThePlaceOfAnUpgradedConnectionIsFreeOnceItsUpstreamHasEnded: the reverse proxy
// tells the client, and waits for it to end its side.
func TestThePlaceOfAnUpgradedConnectionIsFreeOnceItsUpstreamHasEnded(t *testing.T) {
	t.Parallel()
	_, k, x := oneAtATime(t, "")
	c := &lockstep{t: t, k: k, may: func(string) bool { return false }}
	here, there := net.Pipe()
	res := &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: here}
	x.trackTunnel(res)
	go func() {
		_, _ = io.WriteString(there, "hello") // its reader reports what is missing
		_ = there.Close()
	}()
	got := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, got); err != nil {
		t.Fatal(err)
	}
	c.look(false)
	if n, err := res.Body.Read(got); err != io.EOF {
		t.Fatalf("%d bytes, %v", n, err)
	}
	c.look(true)
	x.settle()
	c.look(true)
}
