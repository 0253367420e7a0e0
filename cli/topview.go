package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// topKey is a key as `top` shows it.
type topKey struct {
	*wire.KeyObject
	PerSecond float64 `json:"per_second"`
	// Refused counts its refusals in this hour and the one before.
	Refused int64 `json:"refused"`

	left float64 // the smallest part that is left of any limit; 1 if it has no limit
	what string  // how much that is
}

// snapshot is what `top` shows at one moment.
type snapshot struct {
	Time  time.Time        `json:"time"`
	Stats wire.StatsAnswer `json:"stats"`
	Keys  []*topKey        `json:"keys"`
	// Failure says why there is no answer. The rest is then that of the last snapshot.
	Failure string `json:"failure,omitempty"`
}

// health describes the state of the server in a few words, and reports whether it
// is good.
func (s *snapshot) health() (text string, well bool) {
	switch {
	case s.Failure != "":
		return s.Failure, false
	case s.Stats.Lockdown.LockedDown:
		return "LOCKED DOWN: every key is refused", false
	case s.Stats.StoreFailure != "":
		return "the store failed: " + s.Stats.StoreFailure, false
	case s.Stats.ClockOffSeconds != 0:
		return "the clock was set by " + (time.Duration(s.Stats.ClockOffSeconds) * time.Second).String(), false
	}
	return "store in order", true
}

// tightest finds the limit of which the smallest part is left.
func (k *topKey) tightest(now time.Time) {
	k.left, k.what = 1, "-"
	consider := func(left, limit int64, what string) {
		part := 0.0
		if limit > 0 {
			part = float64(max(left, 0)) / float64(limit)
		}
		if part < k.left || k.what == "-" {
			k.left, k.what = part, what
		}
	}
	if k.MaxActivations != nil && k.RemainingActivations != nil {
		consider(*k.RemainingActivations, *k.MaxActivations, compact(*k.RemainingActivations)+" req")
	}
	if k.MaxTokens != nil && k.RemainingTokens != nil {
		consider(*k.RemainingTokens, *k.MaxTokens, compact(*k.RemainingTokens)+" tok")
	}
	if limit, err := record.ParseUSD(k.MaxSpendUSD); k.MaxSpendUSD != "" && err == nil {
		if left, err := record.ParseUSD(k.RemainingSpendUSD); err == nil {
			consider(left, limit, fmt.Sprintf("$%d.%02d", left/1e9, left%1e9/1e7))
		}
	}
	if k.ExpiresAt != nil {
		consider(int64(k.ExpiresAt.Sub(now)), int64(k.ExpiresAt.Sub(k.CreatedAt)), strings.TrimPrefix(prose.Relative(*k.ExpiresAt, now), "in "))
	}
}

// topOrder is a way to sort the rows.
type topOrder struct {
	name string
	by   func(a, b *topKey) int
}

var topOrders = []topOrder{
	{"recent use", func(a, b *topKey) int { return lastUsed(b).Compare(lastUsed(a)) }},
	{"requests", func(a, b *topKey) int { return cmp.Compare(b.PerSecond, a.PerSecond) }},
	{"least left", func(a, b *topKey) int { return cmp.Compare(a.left, b.left) }},
	{"refusals", func(a, b *topKey) int { return cmp.Compare(b.Refused, a.Refused) }},
	{"name", func(a, b *topKey) int { return strings.Compare(a.Name, b.Name) }},
}

func lastUsed(k *topKey) time.Time {
	if k.LastUsedAt == nil {
		return time.Time{}
	}
	return *k.LastUsedAt
}

// topView is how a snapshot is shown.
type topView struct {
	order   int // in topOrders
	skip    int // rows that are scrolled away above the first
	ended   bool
	columns int
	rows    int
	colour  bool
}

const (
	inverse     = "\x1b[7m"
	red         = "\x1b[31m"
	resetColour = "\x1b[0m"
	topHead     = 4 // lines above the first key, without that of the nodes

	idColumns = 31 // an id and a space
	topKeys   = "q quit  s sort  a ended keys too  ↑↓ scroll"
)

// lines draws a snapshot: at most rows lines, none wider than the terminal.
func (v *topView) lines(s *snapshot) []string {
	text, well := s.health()
	lines := []string{
		fit(fmt.Sprintf("till  %s  %s in flight  %s", counts(s.Stats.Keys), prose.Counted(s.Stats.Holds, "request"), s.Time.Local().Format("15:04:05")), v.columns),
		fit(fmt.Sprintf("used ever: %s, %s, $%s", prose.Counted(s.Stats.UsedActivations, "request"), prose.Counted(s.Stats.UsedTokens, "token"), cmp.Or(s.Stats.UsedSpendUSD, "0")), v.columns),
		fit(text, v.columns),
	}
	if !well && v.colour {
		lines[2] = red + lines[2] + resetColour
	}
	if len(s.Stats.Nodes) > 0 {
		lines = append(lines, fit(nodesLine(s.Stats.Nodes), v.columns))
	}
	name, id := max(v.columns-62, 8), ""
	ids := name > idColumns+8 // there is room for names and ids
	if ids {
		name, id = name-idColumns, fmt.Sprintf("%-*s", idColumns, "ID")
	}
	head := fit(fmt.Sprintf("%s%-*s %-9s %6s %4s %-25s %7s %5s", id, name, "NAME", "FOR", "REQ/S", "RUN", "LEFT", "REFUSED", "LAST"), v.columns)
	if v.colour {
		head = inverse + head + resetColour
	}
	lines = append(lines, head)

	keys := slices.Clone(s.Keys)
	slices.SortStableFunc(keys, topOrders[v.order].by)
	room := max(v.rows-len(lines)-1, 0)
	v.skip = max(min(v.skip, len(keys)-room), 0)
	named := make(map[string]int)
	for _, k := range keys {
		named[k.Name]++
	}
	for _, k := range keys[v.skip:min(v.skip+room, len(keys))] {
		label, id := cmp.Or(k.Name, k.ID), ""
		switch {
		case ids:
			label, id = k.Name, pad(k.ID, idColumns)
		case named[k.Name] > 1: // anybody can have chosen the same name
			label = k.ID
		}
		lines = append(lines, fit(id+k.row(label, name, s.Time), v.columns))
	}
	switch {
	case len(keys) == 0 && room > 0:
		lines = append(lines, fit("No keys. Mint one with: caddy till create --max-activations 500", v.columns))
	case len(keys) > room:
		lines = append(lines, fit(fmt.Sprintf("%s  (%s, %d to %d of %d)", topKeys, topOrders[v.order].name, v.skip+1, min(v.skip+room, len(keys)), len(keys)), v.columns))
		return lines
	}
	return append(lines, fit(topKeys+"  ("+topOrders[v.order].name+")", v.columns))
}

func (k *topKey) row(label string, name int, now time.Time) string {
	if k.Status != record.Active {
		label = string(k.Status) + " " + label
	}
	left := "-"
	if k.what != "-" {
		left = fmt.Sprintf("%s %3d%% %s", meterLeft(k.left), int(k.left*100), k.what)
	}
	last := "-"
	if k.LastUsedAt != nil {
		last = strings.TrimSuffix(prose.Relative(*k.LastUsedAt, now), " ago")
	}
	rate := "-"
	if k.PerSecond > 0 {
		rate = fmt.Sprintf("%.1f", k.PerSecond)
	}
	return fmt.Sprintf("%s %s %6s %4s %s %7s %5s", pad(label, name), pad(k.Upstream, 9), rate, compact(k.HeldActivations), pad(left, 25), compact(k.Refused), last)
}

// meterLeft draws what is left in ten characters. It is empty only if nothing is left.
func meterLeft(part float64) string {
	const width = 8
	filled := min(int(part*width), width)
	if filled == 0 && part > 0 {
		filled = 1
	}
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "]"
}

// counts is "12 active, 3 revoked".
func counts(keys map[record.Status]int64) string {
	var parts phrases
	for _, status := range slices.Concat(living, ended) {
		parts.add(keys[status] > 0, fmt.Sprintf("%s %s", compact(keys[status]), status))
	}
	if len(parts) == 0 {
		return "no keys"
	}
	return strings.Join(parts, ", ")
}

// fit makes a text safe for a terminal, and no wider than columns.
func fit(s string, columns int) string {
	if columns < 1 {
		return ""
	}
	return prose.Cut(printable(s), columns)
}

// pad makes a text n characters wide.
func pad(s string, n int) string {
	s = fit(s, n)
	return s + strings.Repeat(" ", max(n-prose.Wide(s), 0))
}
