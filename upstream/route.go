package upstream

import (
	"strings"
	"time"
)

// Routed is the price at which a request is held whose provider chooses who
// answers: the dearest that the table knows of the model, wherever it is served.
// A row of low confidence is that of the cheapest route, while an operator's own
// is what the operator says.
func (p *Prices) Routed(price *Price, now time.Time) *Price {
	if price.Provider != "openrouter" || price.Confidence != "low" {
		return price
	}
	name, dearest := bareName(price.Model), *price
	dearest.Tiers = append([]Tier(nil), price.Tiers...)
	for _, other := range p.byModel {
		if other.Provider == price.Provider || bareName(other.Model) != name {
			continue
		}
		if other = other.at(now); other == nil {
			continue
		}
		dearest.Input, dearest.Output = max(dearest.Input, other.Input), max(dearest.Output, other.Output)
		dearest.CacheWrite, dearest.CacheWrite1 = max(dearest.CacheWrite, other.CacheWrite), max(dearest.CacheWrite1, other.CacheWrite1)
		dearest.Image, dearest.Media = max(dearest.Image, other.Image), max(dearest.Media, other.Media)
		dearest.Tiers = append(dearest.Tiers, other.Tiers...)
	}
	return &dearest
}

// bareName is a model's name without who made it or serves it. Dots and hyphens
// in versions are written either way.
func bareName(model string) string {
	return strings.ReplaceAll(model[strings.LastIndexByte(model, '/')+1:], ".", "-")
}
