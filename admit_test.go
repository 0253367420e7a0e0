package till

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestNothingIsKeptOfARequestThatEnded: no memory for its body, and no hold on its key,
// in whatever way the request ended.
func TestNothingIsKeptOfARequestThatEnded(t *testing.T) {
	s := newSite(t, nil)
	fields := func(k *record.Key) { k.Scope.Models, k.MaxConcurrency = []string{"gpt-5-mini"}, 1 }
	k := s.mint(fields)
	good := `{"model":"gpt-5-mini","messages":"` + strings.Repeat("x", 2*firstBuffer) + `"}`
	ends := map[string]struct {
		body   io.Reader // default: good
		ctx    func(context.Context) context.Context
		inside func(*http.Request)
		panics bool
	}{
		"answered":                        {},
		"refused for its model":           {body: strings.NewReader(chat("gpt-5").body)},
		"refused for its form":            {body: strings.NewReader("{")},
		"refused for a second model":      {body: strings.NewReader(good[:len(good)-1] + `,"model":"a"}`)},
		"broken off at its beginning":     {body: iotest.ErrReader(io.ErrUnexpectedEOF)},
		"broken off later":                {body: io.MultiReader(strings.NewReader(good[:firstBuffer+1]), iotest.ErrReader(io.ErrUnexpectedEOF))},
		"too large":                       {body: io.LimitReader(zeroReader{}, defaultMaxBody+1)},
		"left by its client at once":      {ctx: cancelled},
		"ended by a panic below":          {inside: func(*http.Request) { panic(http.ErrAbortHandler) }, panics: true},
		"ended by a panic before it left": {ctx: func(ctx context.Context) context.Context { return context.WithValue(ctx, caddy.ReplacerCtxKey, nil) }, panics: true},
		"cut": {inside: func(*http.Request) {
			for _, act := range []func(limiter.Caller, string) (limiter.View, error){s.Suspend, s.Resume} {
				if _, err := act(limiter.Operator, k.id); err != nil {
					t.Error(err)
				}
			}
		}},
		"changed all the while": {body: restless{s, k, strings.NewReader(good)}},
	}
	for name, end := range ends {
		if end.body == nil {
			end.body = strings.NewReader(good)
		}
		s.inside = end.inside
		r := httptest.NewRequest("POST", "http://till.test/v1/chat/completions", end.body)
		r.ContentLength = -1
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+k.text)
		ctx := context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"})
		ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
		if end.ctx != nil {
			ctx = end.ctx(ctx)
		}
		func() {
			defer func() {
				if v := recover(); (v != nil) != end.panics {
					t.Errorf("%s: a panic: %v", name, v)
				}
			}()
			if err := s.h.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx), caddyhttp.HandlerFunc(s.answer)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}()
		if beginnings.TryAcquire(firstRoom) {
			beginnings.Release(firstRoom)
		} else {
			t.Fatalf("%s: it keeps room for the beginnings of bodies", name)
		}
		if buffered.TryAcquire(maxBuffered - firstRoom) {
			buffered.Release(maxBuffered - firstRoom)
		} else {
			t.Fatalf("%s: it keeps room for bodies", name)
		}
		if v, st := s.view(k), s.Stats(); v.InFlight != 0 || v.Held != (record.Amounts{}) || st.Holds != 0 || s.Turns() != 0 {
			t.Fatalf("%s: %d in flight, %v held, %d and %d in all", name, v.InFlight, v.Held, st.Holds, s.Turns())
		}
	}
}

func cancelled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("the client went away"))
	return ctx
}

// restless is a body during which a key changes.
type restless struct {
	s *site
	k minted
	io.Reader
}

func (b restless) Read(p []byte) (int, error) {
	b.s.change(b.k, func(k *record.Key) {
		if k.Limit[record.Tokens] == record.NoLimit {
			k.Limit[record.Tokens] = 1 << 40
		} else {
			k.Limit[record.Tokens] = record.NoLimit
		}
	})
	return b.Reader.Read(p)
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
