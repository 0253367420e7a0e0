package admin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// idempotencyHeader lets a POST be sent again without being carried out again: the
// answer to a replay has "replayed": true and no secret.
const idempotencyHeader = "Idempotency-Key"

// withIdempotencyKey returns the API for a caller whose call is to be carried out once.
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

// once makes a call unless it was made before, or is being made at the same time. A replay
// needs the permission that the call needs: it shows what the call was about.
func once(permission record.Permission, first call) call {
	return func(a *api, l *limiter.Limiter, r *http.Request) (any, error) {
		if err := l.Authorise(a.caller, permission); err != nil {
			return nil, err
		}
		done, replayed, err := l.Replay(a.caller)
		if err == nil && !replayed {
			var answer any
			if answer, err = first(a, l, r); !errors.Is(err, limiter.ErrReplayed) {
				return answer, err
			}
			done, _, err = l.Replay(a.caller)
		}
		var again any
		switch {
		case err != nil:
			return nil, err
		case done.Key != nil:
			key := keyJSON(*done.Key)
			key.Replayed, again = true, key
		case done.Job != nil:
			job := jobJSON(*done.Job)
			job.Replayed, again = true, &job
		case done.Token != nil:
			admin := tokenJSON(*done.Token, l.Time())
			admin.Replayed, again = true, admin
		default:
			again = wire.Replayed{Replayed: true}
		}
		return withStatus{http.StatusOK, again}, nil
	}
}
