package till

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// TestWhateverHappensBelowSettlesOnce calls the handler's own last step with
// next handlers that answer, fail, panic and abort, before and after the
// request was dispatched.
func TestWhateverHappensBelowSettlesOnce(t *testing.T) {
	t.Parallel()
	type next = func(w http.ResponseWriter, r *http.Request) error
	dispatch := func(r *http.Request, status int32) {
		x := exchangeOf(r.Context())
		x.dispatched.Store(true)
		x.status.Store(status)
	}
	answers := func(w http.ResponseWriter, r *http.Request) error {
		dispatch(r, 200)
		w.WriteHeader(200)
		return nil
	}
	fails := func(http.ResponseWriter, *http.Request) error {
		return caddyhttp.Error(502, errors.New("no upstream"))
	}
	failsLate := func(_ http.ResponseWriter, r *http.Request) error {
		dispatch(r, 0)
		return errors.New("reset")
	}
	panics := func(http.ResponseWriter, *http.Request) error { panic("below") }
	aborts := func(w http.ResponseWriter, r *http.Request) error {
		dispatch(r, 200)
		w.WriteHeader(200)
		panic(http.ErrAbortHandler)
	}
	refusesLate := func(w http.ResponseWriter, r *http.Request) error {
		dispatch(r, 500)
		w.WriteHeader(500)
		return nil
	}
	for _, test := range []struct {
		name   string
		next   next
		guard  bool
		charge record.Charge
		used   int64
		status int
		panics bool
	}{
		{name: "answers", next: answers, used: 1, status: 200},
		{name: "fails before the dispatch", next: fails, used: 0, status: 502},
		{name: "fails after the dispatch", next: failsLate, used: 1, status: 502},
		{name: "panics", next: panics, used: 0, panics: true},
		{name: "aborts in mid-answer", next: aborts, used: 1, status: 200, panics: true},
		{name: "fails upstream, charged by success", next: refusesLate, charge: record.ChargeSuccess, used: 0, status: 500},
		{name: "answers, charged by success", next: answers, charge: record.ChargeSuccess, used: 1, status: 200},
		{name: "guard answers", next: answers, guard: true, used: 1, status: 200},
		{name: "guard fails", next: fails, guard: true, used: 1, status: 502},
		{name: "guard panics", next: panics, guard: true, used: 1, panics: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e, o := engineOnBadger(t)
			m := e.metrics
			l, _, err := e.openLimiter(o, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			u := &Upstream{To: []string{"http://127.0.0.1:1"}}
			to, err := u.provision("mock")
			if err != nil {
				t.Fatal(err)
			}
			m.giveCounters(to, "mock")
			spec := &record.Key{Upstream: "mock", Custody: "held", Limit: record.NoLimits(), Charge: test.charge}
			spec.Limit[record.Activations] = 5
			_, lookup, err := token.MintKey()
			if err != nil {
				t.Fatal(err)
			}
			view, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup})
			if err != nil {
				t.Fatal(err)
			}
			k, refusal := l.Find(context.Background(), lookup)
			if refusal != nil {
				t.Fatal(refusal)
			}
			x := &exchange{target: to, clientCtx: t.Context(), request: httptest.NewRequest("GET", "/", nil)}
			ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "GET", Path: "/", OnCut: x.stop}
			if refusal := k.Reserve(context.Background(), &ask, &x.grant); refusal != nil {
				t.Fatal(refusal)
			}
			h := &Handler{Guard: test.guard, metrics: m, logger: zap.NewNop()}
			w := httptest.NewRecorder()
			func() {
				defer func() {
					if v := recover(); (v != nil) != test.panics {
						t.Errorf("panic %v", v)
					}
				}()
				if err := h.forward(w, x, caddyhttp.HandlerFunc(test.next)); err != nil {
					t.Errorf("an error left the handler: %v", err)
				}
			}()
			x.settle() // a second time changes nothing
			view, err = l.Get(limiter.Operator, view.ID)
			if err != nil {
				t.Fatal(err)
			}
			if view.Used[record.Activations] != test.used || view.Held != (record.Amounts{}) || view.InFlight != 0 {
				t.Errorf("used %d, held %v, in flight %d; want used %d", view.Used[0], view.Held, view.InFlight, test.used)
			}
			if test.status != 0 && w.Code != test.status {
				t.Errorf("status %d, want %d", w.Code, test.status)
			}
		})
	}
}
