package admin

import (
	"net/http"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/upstream"
)

// perMillion writes picodollars a token as dollars per million tokens.
func perMillion(pico int64) string { return limiter.FormatUSD(pico * 1000) }

func orNone(pico int64) string {
	if pico == 0 {
		return ""
	}
	return perMillion(pico)
}

func priceJSON(p *upstream.Price) wire.PriceObject {
	o := wire.PriceObject{
		Provider: p.Provider, Model: p.Model, Input: perMillion(p.Input), Output: perMillion(p.Output),
		CachedInput: orNone(p.CachedInput), CacheWrite: orNone(p.CacheWrite), CacheWrite1h: orNone(p.CacheWrite1),
		Context: p.Context, MaxOutput: p.MaxOutput, AsOf: p.AsOf, Source: p.Source, Confidence: p.Confidence,
	}
	for _, t := range p.Tiers {
		o.Tiers = append(o.Tiers, wire.TierPrice{Above: t.Above, Input: perMillion(t.Input), Output: perMillion(t.Output)})
	}
	return o
}

// prices answers with the table. ?model= names a model, with its provider and a
// slash before it or without; what a request of that name would cost is meant,
// so dated snapshots are found, too.
func (a *api) prices(_ *limiter.Limiter, r *http.Request) (int, any, error) {
	table := a.backend.PriceTable()
	answer := wire.ListedPrices{AsOf: table.AsOf, Prices: []wire.PriceObject{}}
	model := r.URL.Query().Get("model")
	if model == "" {
		for _, p := range table.All() {
			answer.Prices = append(answer.Prices, priceJSON(p))
		}
		return http.StatusOK, answer, nil
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
	return http.StatusOK, answer, nil
}
