package till

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// breakingBody is an answer's body whose reader fails as no reader should.
type breakingBody struct{ io.Reader }

var errBroken = errors.New("a module is broken")

func (b breakingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		panic(errBroken)
	}
	return n, err
}

func (breakingBody) Close() error { return nil }

// TestAPanicAfterTheDispatchGivesNothingBack: nobody knows what the upstream has done, so
// the request is charged all that it held, also if what it has used cannot be worked out.
func TestAPanicAfterTheDispatchGivesNothingBack(t *testing.T) {
	t.Parallel()
	answers := func(x *exchange) {
		res := &http.Response{StatusCode: http.StatusOK, ProtoMajor: 2, Header: http.Header{}, ContentLength: -1,
			Body: breakingBody{strings.NewReader(`{"model":"gpt-5-mini","choices":[`)}}
		x.usage.meterAnswer(res, x.target.preset, false)
		_, _ = io.Copy(io.Discard, res.Body)
	}
	for name, below := range map[string]func(*exchange){
		"the body's reader":  answers,
		"the handler behind": func(*exchange) { panic(errBroken) },
		"both the body's reader and its meter": func(x *exchange) {
			x.usage.now = func() time.Time { panic(errBroken) } // which prices what was used
			answers(x)
		},
		"the clock, after the answer": func(x *exchange) {
			x.usage.now = func() time.Time { panic(errBroken) }
			x.usage.meter = x.target.preset.Meter(false)
		},
	} {
		for _, charge := range []record.Charge{"", record.ChargeSuccess} {
			t.Run(name+", charged by "+string(charge), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, nil)
				k := s.mint(func(k *record.Key) {
					k.Charge, k.Limit[record.Tokens], k.Limit[record.Nanodollars] = charge, 1_000_000, 1e9
				})
				var held record.Amounts
				s.inside = func(r *http.Request) {
					held = s.view(k).Held
					below(exchangeOf(r.Context()))
				}
				func() {
					defer func() {
						if v := recover(); v != errBroken { //nolint:errorlint // it is the very value
							t.Errorf("panic %v", v)
						}
					}()
					status, code, answer := s.serve(k, chat("gpt-5-mini"))
					t.Errorf("%d %s %s", status, code, answer)
				}()
				v := s.view(k)
				if v.Used != held || held[record.Nanodollars] < 1 || held[record.Tokens] < 300 || v.Held != (record.Amounts{}) || v.InFlight != 0 {
					t.Errorf("used %v, and held were %v; held %v, in flight %d", v.Used, held, v.Held, v.InFlight)
				}
			})
		}
	}
}
