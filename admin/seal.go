package admin

import (
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// ErrSealKeyNamed says that the configuration names the seal keys, so they are
// the operator's.
var ErrSealKeyNamed = errors.New("the configuration names the seal keys, so the server makes none: make one (openssl rand -base64 32 > FILE, mode 0600), put `seal_key {file.FILE}` before the others, and reload")

func (a *api) sealKeys(l *limiter.Limiter, r *http.Request) (int, any, error) {
	uses, err := l.SealUses(r.Context(), a.caller)
	if err != nil {
		return 0, nil, err
	}
	ids, err := a.backend.SealKeyIDs()
	if err != nil {
		return 0, nil, err
	}
	answer := wire.SealKeysAnswer{SealKeys: []wire.SealKeyObject{}}
	add := func(id token.SealKeyID, seals, opens bool) {
		use := uses[id]
		answer.SealKeys = append(answer.SealKeys, wire.SealKeyObject{ID: id.String(), Seals: seals, Opens: opens, LiveKeys: use.Live, EndedKeys: use.Ended})
		delete(uses, id)
	}
	for i, id := range ids {
		add(id, i == 0, true)
	}
	missing := make(map[string]token.SealKeyID, len(uses))
	for id := range uses {
		missing[id.String()] = id
	}
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		add(missing[id], false, false)
	}
	return http.StatusOK, answer, nil
}

func (a *api) rotateSeal(l *limiter.Limiter, r *http.Request) (int, any, error) {
	if err := readOptionalBody(r, &struct{}{}); err != nil {
		return 0, nil, err
	}
	if err := l.Authorise(a.caller, limiter.Everything); err != nil {
		return 0, nil, err
	}
	switch err := a.backend.RotateSeal(a.caller); {
	case errors.Is(err, ErrSealKeyNamed):
		return 0, nil, &apiError{http.StatusConflict, "seal_key_configured", err.Error()}
	case err != nil:
		return 0, nil, err
	}
	return a.sealKeys(l, r)
}
