package admin

import (
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// ahead is a clock that shows a different year from the machine's, and stands still
// until it is moved.
type ahead struct{ nanos atomic.Int64 }

func newAhead() *ahead {
	c := new(ahead)
	c.nanos.Store(time.Date(2051, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *ahead) Now() (time.Time, time.Duration) {
	n := c.nanos.Load()
	return time.Unix(0, n).UTC(), time.Duration(n)
}

func (c *ahead) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func TestLifetimesAreCountedByTheClockOfTheLimiter(t *testing.T) {
	t.Parallel()
	clock := newAhead()
	start, _ := clock.Now()
	w := newWorldAt(t, clock)
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"expires_in":"24h"}`)
	key := admintest.Get[wire.KeyObject](t, w.Do("PATCH", "/keys/"+m.ID, `{"expires_in":"48h"}`))
	parent, err := w.Get(limiter.Operator, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader(`{"max_activations":1,"expires_in":"2h"}`))
	child, _, err := ReadChild(r, &parent.Key, "openai", w.Time())
	if err != nil {
		t.Fatal(err)
	}
	token := admintest.Get[wire.TokenObject](t, w.Do("POST", "/tokens", `{"name":"anna","role":"ci","expires_in":"1h"}`))
	for what, test := range map[string]struct {
		got  *time.Time
		want time.Duration
	}{
		"a mint": {m.ExpiresAt, 24 * time.Hour}, "a change": {key.ExpiresAt, 48 * time.Hour},
		"a child": {&child.ExpiresAt, 2 * time.Hour}, "a token": {token.ExpiresAt, time.Hour},
	} {
		if want := start.Add(test.want); test.got == nil || !test.got.Equal(want) {
			t.Errorf("%s ends at %v, want %v", what, test.got, want)
		}
	}
	if token.Status != record.Active {
		t.Errorf("a new token is %s", token.Status)
	}
	clock.advance(2 * time.Hour)
	if all := admintest.Get[wire.ListedTokens](t, w.Do("GET", "/tokens", "")); all.Tokens[0].Status != record.Expired {
		t.Errorf("an hour after its end, a token is %s", all.Tokens[0].Status)
	}
	lasting := admintest.Get[wire.TokenObject](t, w.Do("POST", "/tokens", `{"name":"bert","role":"ci"}`))
	if d := admintest.Get[wire.Diagnosis](t, w.Do("GET", "/doctor", "")); finding(d, "endless_tokens") == nil || !strings.Contains(finding(d, "endless_tokens").Fix, lasting.ID) {
		t.Errorf("a token without an end is not found: %+v", d.Findings)
	}
}
