package till

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// TestAnAnswerSaysWhatIsLeftAlsoIfTheUpstreamFailed: what a request that was not sent had
// reserved is there again.
func TestAnAnswerSaysWhatIsLeftAlsoIfTheUpstreamFailed(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	for _, test := range []struct {
		name       string
		dispatched bool
		err        error
		status     int
		left       int64
	}{
		{"it was not reached", false, errors.New("connection refused"), http.StatusBadGateway, 1000},
		{"it was not reached in time", false, context.DeadlineExceeded, http.StatusGatewayTimeout, 1000},
		{"it broke off", true, errors.New("connection reset"), http.StatusBadGateway, 999},
	} {
		k := s.mint(func(k *record.Key) { k.ExpiresAt, k.Limit[record.Tokens] = time.Now().Add(time.Hour), 1_000_000 })
		s.fails = func(x *exchange) error {
			x.dispatched.Store(test.dispatched)
			return test.err
		}
		status, h, answer := s.serveAll(k, chat("gpt-5-mini"))
		if code := record.Code(h.Get("Till-Refusal")); status != test.status || code != record.CodeUpstreamFailed {
			t.Errorf("%s: answered %d %s: %s", test.name, status, code, answer)
		}
		v := s.view(k)
		tokens, err := strconv.ParseInt(h.Get("Till-Tokens-Remaining"), 10, 64)
		if err != nil || (tokens == 1_000_000) == test.dispatched || h.Get("Till-Activations-Remaining") != strconv.FormatInt(test.left, 10) ||
			h.Get("Till-Key") != k.id || h.Get("Till-Expires") != v.ExpiresAt.UTC().Format(time.RFC3339) {
			t.Errorf("%s: %v", test.name, h)
		}
		if n := v.Remaining[record.Activations]; n != test.left || v.Held != (record.Amounts{}) {
			t.Errorf("%s: %d are left, and held are %v", test.name, n, v.Held)
		}
	}
}

// TestAHolderIsToldWhatIsLeftWithEveryAnswerAboutTheKey, as long as the key goes on working.
func TestAHolderIsToldWhatIsLeftWithEveryAnswerAboutTheKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	revoke := func(k minted) {
		if _, _, err := s.Revoke(t.Context(), limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		asks
		mint   func(*record.Key)
		before func(minted)
		code   record.Code // after as many requests as it takes
		key    bool
		left   string
	}{
		{name: "about itself", asks: asks{method: "GET", path: "/till/self"}, key: true, left: "1000"},
		{name: "of one that expires", asks: asks{method: "GET", path: "/till/self"}, mint: func(k *record.Key) { k.ExpiresAt = time.Now().Add(time.Hour) }, key: true, left: "1000"},
		{name: "of one with nothing left", asks: asks{method: "GET", path: "/till/self"}, mint: func(k *record.Key) { k.Limit[record.Activations] = 0 }, key: true, left: "0"},
		{name: "of one without limits", asks: asks{method: "GET", path: "/till/self"}, mint: func(k *record.Key) { k.Limit = record.NoLimits() }, key: true},
		{name: "with another method", asks: asks{method: "PUT", path: "/till/self"}, code: record.CodeMethodNotAllowed, key: true, left: "1000"},
		{name: "about its children", asks: asks{method: "GET", path: "/till/self/keys"}, code: record.CodeMethodNotAllowed, key: true, left: "1000"},
		{name: "what is not there", asks: asks{method: "GET", path: "/till/other"}, code: record.CodePathNotAllowed, key: true, left: "1000"},
		{name: "may not be revoked", asks: asks{method: "DELETE", path: "/till/self"}, mint: func(k *record.Key) { k.SelfRevoke = false }, code: record.CodeMethodNotAllowed, key: true, left: "1000"},
		{name: "too often", asks: asks{method: "GET", path: "/till/self"}, code: record.CodeRateLimited, key: true, left: "1000"},
		{name: "a child", asks: asks{method: "POST", path: childrenPath, body: `{"max_activations":10}`}, key: true, left: "989"},
		{name: "a child that it may not have", asks: asks{method: "POST", path: childrenPath, body: `{"max_activations":10}`}, mint: func(k *record.Key) { k.Delegate = false }, code: record.CodeMethodNotAllowed, key: true, left: "1000"},
		{name: "a child without a credential", asks: asks{method: "POST", path: childrenPath, body: `{"max_activations":10}`}, mint: func(k *record.Key) { k.Upstream = "raw" }, before: func(minted) {
			s.h.app.targets["raw"].held.Store(nil)
		}, code: record.CodeUpstreamUnknown, key: true, left: "1000"},
		{name: "its end", asks: asks{method: "DELETE", path: "/till/self"}, key: true},
		{name: "of one that was revoked", asks: asks{method: "GET", path: "/till/self"}, before: revoke, key: true},
		{name: "of one that was revoked, with another method", asks: asks{method: "PUT", path: "/till/self"}, before: revoke, code: record.CodeMethodNotAllowed},
		{name: "of one that was revoked, too often", asks: asks{method: "GET", path: "/till/self"}, before: revoke, code: record.CodeRateLimited},
	} {
		k := s.mint(func(k *record.Key) {
			if test.mint != nil {
				test.mint(k)
			}
		})
		if test.before != nil {
			test.before(k)
		}
		var h http.Header
		var answer string
		for range 1000 {
			if _, h, answer = s.serveAll(k, test.asks); record.Code(h.Get("Till-Refusal")) == test.code {
				break
			}
		}
		if code := record.Code(h.Get("Till-Refusal")); code != test.code {
			t.Errorf("%s: answered %q, want %q: %s", test.name, code, test.code, answer)
		}
		key, expires := "", ""
		if test.key {
			key = k.id
			if at := s.view(k).ExpiresAt; !at.IsZero() {
				expires = at.UTC().Format(time.RFC3339)
			}
		}
		if h.Get("Till-Key") != key || h.Get("Till-Expires") != expires || h.Get("Till-Activations-Remaining") != test.left {
			t.Errorf("%s: %v, want %q, %q and %q", test.name, h, key, expires, test.left)
		}
	}
}
