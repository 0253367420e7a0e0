package till

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// site is the handler over a limiter with a store in memory, and with a handler that
// answers by itself in place of the proxy.
type site struct {
	*limiter.Limiter
	clock     *leadClock
	t         testing.TB
	h         *Handler
	forwarded atomic.Int64
	// inside, if set, runs while a request is at the upstream.
	inside func(*http.Request)
	// fails, if set, is how the proxy fails.
	fails func(*exchange) error
	// read, if set, is given what the upstream is sent.
	read func(body string)
}

// memoryStorage is a store that ends with the test.
type memoryStorage struct {
	disk  *storetest.Disk
	clock *leadClock
}

// leadClock is the machine's clock, and as far ahead of it as a test says.
type leadClock struct{ lead atomic.Int64 }

func (c *leadClock) Now() (time.Time, time.Duration) {
	shown, steady := commit.SystemClock{}.Now()
	lead := time.Duration(c.lead.Load())
	return shown.Add(lead), steady + lead
}

func (memoryStorage) Place() Place { return Place{Identity: "memory"} }

func (s memoryStorage) OpenStore(StoreOpening) (OpenedStore, error) {
	return OpenedStore{Store: s.disk.Open(), Clock: s.clock}, nil
}

// newSite serves the upstreams openai, which denies paths that administer the account,
// and raw, which has no preset.
func newSite(t testing.TB, roles map[string]record.Role) *site {
	t.Helper()
	dir := t.TempDir()
	e := newEngine(Place{Identity: dir, Dir: dir}, nil)
	e.patience = patience
	t.Cleanup(func() {
		if err := e.Destruct(); err != nil {
			t.Log(err)
		}
	})
	clock := new(leadClock)
	app := &App{
		engine: e, storage: memoryStorage{storetest.NewDisk(), clock}, roles: roles, maxBody: defaultMaxBody,
		prices: new(atomic.Pointer[upstream.Prices]), targets: map[string]*target{},
	}
	app.prices.Store(upstream.BuiltInPrices())
	s := &site{t: t, clock: clock, h: &Handler{app: app, metrics: e.metrics, logger: zap.NewNop()}}
	s.addUpstream("openai", Upstream{Upgrades: []string{"/v1/realtime"}})
	s.addUpstream("raw", Upstream{To: []string{"http://raw.example.com"}})
	var err error
	if s.Limiter, err = e.open(app.storeOptions(), patience); err != nil {
		t.Fatal(err)
	}
	return s
}

// addUpstream serves one more upstream.
func (s *site) addUpstream(name string, u Upstream) {
	s.t.Helper()
	to, err := u.provision(name)
	if err != nil {
		s.t.Fatal(err)
	}
	e := s.h.app.engine
	to.held.Store(newCredential(token.NewSecret("sk-real")))
	e.metrics.giveCounters(to, name)
	to.contradictions, to.advice = e.contradictions, e.advice
	s.h.app.targets[name] = to
	s.h.app.slots = slotsOf(s.h.app.targets)
}

// minted is a key of a site.
type minted struct{ id, text string }

func (s *site) mint(fields ...func(*record.Key)) minted {
	s.t.Helper()
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits(), SelfRevoke: true, Delegate: true}
	spec.Limit[record.Activations] = 1000
	for _, fn := range fields {
		fn(spec)
	}
	text, lookup, err := token.MintKey()
	if err != nil {
		s.t.Fatal(err)
	}
	view, err := s.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Unlimited: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return minted{view.ID, text.Reveal()}
}

// live returns the key as it is in memory.
func (s *site) live(k minted) *limiter.Live {
	s.t.Helper()
	parsed, err := token.ParseKey(k.text)
	if err != nil {
		s.t.Fatal(err)
	}
	live, refusal := s.Find(context.Background(), parsed.Lookup)
	if refusal != nil {
		s.t.Fatal(refusal)
	}
	return live
}

// change is a PATCH by the operator.
func (s *site) change(k minted, fn func(*record.Key)) {
	s.t.Helper()
	_, err := s.Change(context.Background(), limiter.Operator, k.id, 0, func(key *record.Key) error {
		fn(key)
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
}

func (s *site) view(k minted) limiter.View {
	s.t.Helper()
	v, err := s.Get(limiter.Operator, k.id)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// asks is a request of a key to the site.
type asks struct {
	method, path, body string
	header             http.Header
	from               string
	// halfway runs when half of the body was read.
	halfway func()
	// as changes the request before it is served.
	as func(*http.Request)
}

// chat asks a model for an answer.
func chat(model string) asks {
	return asks{method: "POST", path: "/v1/chat/completions", body: `{"model":"` + model + `","messages":[{"role":"user","content":"hi"}],"max_tokens":300}`}
}

// twoHalves is a body that calls a function between its halves.
type twoHalves struct {
	io.Reader
	rest    io.Reader
	between func()
}

func halves(body string, between func()) *twoHalves {
	n := len(body) / 2
	return &twoHalves{strings.NewReader(body[:n]), strings.NewReader(body[n:]), between}
}

func (b *twoHalves) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.rest != nil {
		b.between()
		b.Reader, b.rest = b.rest, nil
		return b.Reader.Read(p)
	}
	return n, err
}

// serve sends a request with a key, and returns the status and the code and message of
// the refusal.
func (s *site) serve(k minted, a asks) (int, record.Code, string) {
	status, h, answer := s.serveAll(k, a)
	return status, record.Code(h.Get("Till-Refusal")), answer
}

// serveAll is the same with the whole header of the answer.
func (s *site) serveAll(k minted, a asks) (int, http.Header, string) {
	var body io.Reader = strings.NewReader(a.body)
	if a.halfway != nil {
		body = halves(a.body, a.halfway)
	}
	r := httptest.NewRequest(a.method, "http://till.test"+a.path, body)
	r.ContentLength = int64(len(a.body))
	if a.header != nil {
		r.Header = a.header.Clone()
	}
	if a.body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+k.text)
	from := a.from
	if from == "" {
		from = "192.0.2.1"
	}
	ctx := context.WithValue(s.t.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: from})
	r = r.WithContext(context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer()))
	if a.as != nil {
		a.as(r)
	}
	w := httptest.NewRecorder()
	if err := s.h.ServeHTTP(w, r, caddyhttp.HandlerFunc(s.answer)); err != nil {
		s.t.Errorf("%s %s: an error left the handler: %v", a.method, a.path, err)
	}
	return w.Code, w.Header(), w.Body.String()
}

// answer takes the place of the proxy and its upstream.
func (s *site) answer(w http.ResponseWriter, r *http.Request) error {
	x := exchangeOf(r.Context())
	if s.fails != nil {
		return s.fails(x)
	}
	x.dispatched.Store(true)
	x.status.Store(http.StatusOK)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if s.read != nil {
		s.read(string(body))
	}
	if s.inside != nil {
		s.inside(r)
	}
	s.forwarded.Add(1)
	_, err = io.WriteString(w, "{}")
	return err
}
