package admin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// idempotencyHeader lets a POST be sent again without being carried out again: the
// answer to a replay has "replayed": true and no secret.
const idempotencyHeader = "Idempotency-Key"

// repeatable lists the calls that can safely be made twice; they ignore the header.
var repeatable = map[string]bool{"POST /leaks": true, "POST /fingerprint": true}

// handleIdempotent is handle for calls that may have an idempotency key.
func (a *api) handleIdempotent(pattern string, plain http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Values(idempotencyHeader)) == 0 {
			plain.ServeHTTP(w, r)
			return
		}
		b, err := a.withIdempotencyKey(r)
		if err != nil {
			a.fail(w, err)
			return
		}
		for _, route := range b.routes() {
			if route.pattern == pattern {
				a.handle(b.once(route.call)).ServeHTTP(w, r)
				return
			}
		}
	})
}

// withIdempotencyKey is the API for a caller whose call is to be carried out once.
// Two calls are the same if their paths and bodies are.
func (a *api) withIdempotencyKey(r *http.Request) (*api, error) {
	keys := r.Header.Values(idempotencyHeader)
	if len(keys) != 1 || !visible(keys[0]) {
		return nil, invalid("%s must be given once and be 1 to %d visible ASCII characters", idempotencyHeader, limiter.MaxOnceKey)
	}
	body, err := wholeBody(r, maxBody)
	if err != nil {
		return nil, err
	}
	call := sha256.New()
	fmt.Fprintf(call, "%d %s?%s\n", len(r.URL.RequestURI()), r.URL.Path, r.URL.RawQuery)
	call.Write(body)
	b := *a
	b.caller = a.caller.Once(keys[0], [sha256.Size]byte(call.Sum(nil)))
	return &b, nil
}

func visible(key string) bool {
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return key != "" && len(key) <= limiter.MaxOnceKey
}

// once makes a call unless it was made before, or is being made at the same time.
func (a *api) once(call func(*limiter.Limiter, *http.Request) (int, any, error)) func(*limiter.Limiter, *http.Request) (int, any, error) {
	return func(l *limiter.Limiter, r *http.Request) (int, any, error) {
		done, replayed, err := l.Replay(r.Context(), a.caller)
		if err == nil && !replayed {
			var status int
			var answer any
			if status, answer, err = call(l, r); !errors.Is(err, limiter.ErrReplayed) {
				return status, answer, err
			}
			done, _, err = l.Replay(r.Context(), a.caller)
		}
		switch {
		case err != nil:
			return 0, nil, err
		case done.Key != nil:
			return http.StatusOK, struct {
				*wire.KeyObject
				Replayed bool `json:"replayed"`
			}{KeyJSON(*done.Key), true}, nil
		case done.Job != nil:
			return http.StatusOK, struct {
				wire.BulkJSON
				Replayed bool `json:"replayed"`
			}{jobJSON(*done.Job), true}, nil
		case done.Token != nil:
			return http.StatusOK, struct {
				*wire.TokenObject
				Replayed bool `json:"replayed"`
			}{tokenJSON(*done.Token, l.Time()), true}, nil
		}
		return http.StatusOK, map[string]bool{"replayed": true}, nil
	}
}
