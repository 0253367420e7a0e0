package admin

import (
	"maps"
	"net/http"
	"slices"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

// fingerprint names a real key, so that the keys that depend on it can be
// listed. The real key itself must not stand in a list's query.
func (a *api) fingerprint(l *limiter.Limiter, r *http.Request) (int, any, error) {
	var body wire.FingerprintBody
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	if body.UpstreamKey.IsZero() {
		return 0, nil, invalid("upstream_key must be the real key that is asked about")
	}
	name, err := l.CredentialFingerprint(a.caller, body.UpstreamKey.Secret)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, wire.Fingerprinted{CredentialFingerprint: name, Upstreams: a.holders(l, name)}, nil
}

// holders are the upstreams whose held credential has the fingerprint.
func (a *api) holders(l *limiter.Limiter, fingerprint string) []string {
	names := []string{}
	named := a.backend.Fingerprints(l.Fingerprint)
	for _, upstream := range slices.Sorted(maps.Keys(named)) {
		if named[upstream] == fingerprint {
			names = append(names, upstream)
		}
	}
	return names
}
