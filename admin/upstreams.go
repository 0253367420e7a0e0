package admin

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// clients answers with the lines that configure each client of an upstream, with a
// placeholder for the key's string.
func (a *api) clients(_ *limiter.Limiter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	info, ok := a.upstreamNamed(name)
	if !ok {
		return nil, &apiError{http.StatusNotFound, "not_found", "upstream " + prose.Cut(name, 64) + " is not configured"}
	}
	base := a.backend.BaseURL()
	return wire.ClientsAnswer{Upstream: name, BaseURL: base, Clients: clients.Of(info, base, clients.Blank)}, nil
}

// perMillion writes picodollars per token as dollars per million tokens.
func perMillion(pico int64) string { return record.FormatUSD(pico * 1000) }

func priceJSON(p *upstream.Price) wire.PriceObject {
	o := wire.PriceObject{
		Provider: p.Provider, Model: p.Model, Input: perMillion(p.Input), Output: perMillion(p.Output),
		CachedInput: optionalUSD(1000 * p.CachedInput), CacheWrite: optionalUSD(1000 * p.CacheWrite), CacheWrite1h: optionalUSD(1000 * p.CacheWrite1),
		Context: p.Context, MaxOutput: p.MaxOutput, AsOf: p.AsOf, Source: p.Source, Confidence: p.Confidence,
	}
	for _, t := range p.Tiers {
		o.Tiers = append(o.Tiers, wire.TierPrice{Above: t.Above, Input: perMillion(t.Input), Output: perMillion(t.Output)})
	}
	return o
}

// prices answers with the price table. ?model= names a model, with or without its
// provider and a slash before it. It finds the price that a request for that name
// would have, so it also finds dated snapshots.
func (a *api) prices(_ *limiter.Limiter, r *http.Request) (any, error) {
	table := a.backend.PriceTable()
	answer := wire.ListedPrices{AsOf: table.AsOf, Prices: []wire.PriceObject{}}
	model, err := onlyParameter(r, "model")
	if err != nil {
		return nil, err
	}
	if model == "" {
		for _, p := range table.At(time.Now()) {
			answer.Prices = append(answer.Prices, priceJSON(p))
		}
		return answer, nil
	}
	for _, provider := range upstream.Names() {
		name, named := strings.CutPrefix(model, provider+"/")
		if !named {
			name = model
		}
		if p, ok := table.Find(provider, name, time.Now()); ok {
			answer.Prices = append(answer.Prices, priceJSON(p))
		}
	}
	return answer, nil
}

// fingerprint answers with the fingerprint of a real key, by which the keys that
// depend on it can be listed. The real key itself must not be part of a list's
// query.
func (a *api) fingerprint(l *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.FingerprintBody
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	if body.UpstreamKey.IsZero() {
		return nil, invalid("upstream_key must be the real key that is asked about")
	}
	name, err := l.CredentialFingerprint(a.caller, body.UpstreamKey.Secret)
	if err != nil {
		return nil, err
	}
	return wire.Fingerprinted{CredentialFingerprint: name, Upstreams: a.holders(l, name)}, nil
}

// holders lists the upstreams whose held credential has the fingerprint.
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

// ErrSealKeyNamed is returned if the configuration names the seal keys, so that
// only the operator can change them.
var ErrSealKeyNamed = errors.New("the configuration names the seal keys, so the server makes none: make one (openssl rand -base64 32 > FILE, mode 0600), put `seal_key {file.FILE}` before the others, and reload")

func (a *api) sealKeys(l *limiter.Limiter, r *http.Request) (any, error) {
	uses, err := l.SealUses(r.Context(), a.caller)
	if err != nil {
		return nil, err
	}
	ids, err := a.backend.SealKeyIDs()
	if err != nil {
		return nil, err
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
	return answer, nil
}

func (a *api) rotateSeal(l *limiter.Limiter, r *http.Request) (any, error) {
	if err := readOptionalBody(r, &struct{}{}); err != nil {
		return nil, err
	}
	if err := l.Authorise(a.caller, record.Everything); err != nil {
		return nil, err
	}
	switch err := a.backend.RotateSeal(a.caller); {
	case errors.Is(err, ErrSealKeyNamed):
		return nil, &apiError{http.StatusConflict, "seal_key_configured", err.Error()}
	case err != nil:
		return nil, err
	}
	return a.sealKeys(l, r)
}

func (a *api) upstreams(l *limiter.Limiter, _ *http.Request) (any, error) {
	infos := slices.Clone(a.backend.UpstreamInfos())
	named := a.backend.Fingerprints(l.Fingerprint)
	for i := range infos {
		infos[i].CredentialFingerprint = named[infos[i].Name]
	}
	return wire.UpstreamsAnswer{BaseURL: a.backend.BaseURL(), Upstreams: infos}, nil
}

// upstreamNamed returns a configured upstream, and an empty one if none of that name is
// configured now.
func (a *api) upstreamNamed(name string) (info wire.UpstreamInfo, configured bool) {
	for _, u := range a.backend.UpstreamInfos() {
		if u.Name == name {
			return u, true
		}
	}
	return wire.UpstreamInfo{}, false
}
