package admin

import (
	"net/http"
	"strings"

	"github.com/till-proxy/till/limiter"
)

// spendPart is how many pages of keys one call adds up: enough to get on, and
// little enough that no call takes long.
const spendPart = 10

// spending is what one part of the keys has used, by upstream, owner and model.
// Whoever wants the whole asks again with next, and adds the parts up.
type spending struct {
	Upstream []usedBy `json:"upstream"`
	Owner    []usedBy `json:"owner"`
	// Model is known for keys that may use only one. Empty: any.
	Model    []usedBy `json:"model"`
	LookedAt int      `json:"looked_at"`
	Next     string   `json:"next,omitempty"`
}

// usedBy is what keys have used in their whole life, renewals included.
type usedBy struct {
	Name        string `json:"name"`
	Keys        int64  `json:"keys"`
	Activations int64  `json:"activations"`
	Tokens      int64  `json:"tokens"`
	SpendUSD    string `json:"spend_usd"`

	nano int64
}

// spend adds up the keys that the caller sees.
func (a *api) spend(l *limiter.Limiter, r *http.Request) (int, any, error) {
	f := limiter.Filter{Limit: 500}
	for name, values := range r.URL.Query() {
		if name != "cursor" || len(values) != 1 {
			return 0, nil, invalid("spend takes cursor alone, once, got %q", cut(name, 64))
		}
		f.Cursor = values[0]
	}
	upstreams, owners, models := map[string]*usedBy{}, map[string]*usedBy{}, map[string]*usedBy{}
	var s spending
	for range spendPart {
		page, err := l.List(r.Context(), a.caller, f)
		if err != nil {
			return 0, nil, err
		}
		for i := range page.Keys {
			v := &page.Keys[i]
			add(upstreams, v.Upstream, v)
			add(owners, v.Owner, v)
			add(models, onlyModel(v.Scope.Models), v)
		}
		s.LookedAt += len(page.Keys)
		s.Next, f.Cursor = page.Next, page.Next
		if page.Next == "" {
			break
		}
	}
	s.Upstream, s.Owner, s.Model = sums(upstreams), sums(owners), sums(models)
	return http.StatusOK, s, nil
}

func add(to map[string]*usedBy, name string, v *limiter.View) {
	sum := to[name]
	if sum == nil {
		sum = &usedBy{Name: name}
		to[name] = sum
	}
	sum.Keys++
	sum.Activations += v.Used[limiter.Activations] + v.Past[limiter.Activations]
	sum.Tokens += v.Used[limiter.Tokens] + v.Past[limiter.Tokens]
	sum.nano += v.Used[limiter.Nanodollars] + v.Past[limiter.Nanodollars]
}

// onlyModel is the one model that a key may use, if there is one.
func onlyModel(models []string) string {
	if len(models) != 1 || strings.Contains(models[0], "*") {
		return ""
	}
	return models[0]
}

func sums(of map[string]*usedBy) []usedBy {
	list := make([]usedBy, 0, len(of))
	for _, name := range sorted(of) {
		sum := of[name]
		sum.SpendUSD = limiter.FormatUSD(sum.nano)
		list = append(list, *sum)
	}
	return list
}
