package admin

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// spendPart is how many pages of keys one call adds up: enough to make progress,
// and few enough that no call takes long.
const spendPart = 10

// spend adds up the keys that the caller sees.
func (a *api) spend(l *limiter.Limiter, r *http.Request) (any, error) {
	cursor, err := onlyParameter(r, "cursor")
	if err != nil {
		return nil, err
	}
	f := limiter.Filter{Limit: 500, Cursor: cursor}
	upstreams, owners, models := map[string]*sum{}, map[string]*sum{}, map[string]*sum{}
	var s wire.Spending
	for range spendPart {
		page, err := l.List(r.Context(), a.caller, f)
		if err != nil {
			return nil, err
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
	return s, nil
}

// sum is what keys have used so far, with the dollars still as a number.
type sum struct {
	wire.UsedBy
	nanodollars int64
}

func add(to map[string]*sum, name string, v *limiter.View) {
	s := to[name]
	if s == nil {
		s = &sum{UsedBy: wire.UsedBy{Name: name}}
		to[name] = s
	}
	s.Keys++
	s.Activations += v.Used[record.Activations] + v.Past[record.Activations]
	s.Tokens += v.Used[record.Tokens] + v.Past[record.Tokens]
	s.nanodollars += v.Used[record.Nanodollars] + v.Past[record.Nanodollars]
}

// onlyModel is the one model that a key may use, or empty if it may use several.
func onlyModel(models []string) string {
	if len(models) != 1 || strings.Contains(models[0], "*") {
		return ""
	}
	return models[0]
}

func sums(of map[string]*sum) []wire.UsedBy {
	list := make([]wire.UsedBy, 0, len(of))
	for _, name := range slices.Sorted(maps.Keys(of)) {
		s := of[name]
		s.SpendUSD = record.FormatUSD(s.nanodollars)
		list = append(list, s.UsedBy)
	}
	return list
}
