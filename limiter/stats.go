package limiter

import (
	"maps"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Stats describes the limiter as a whole.
type Stats struct {
	// Keys counts keys by recorded status. An end that has not been noticed yet
	// is recorded within a minute.
	Keys map[record.Status]int64
	// Holds counts requests in flight.
	Holds int64
	// Forfeited is an upper bound of the activations that a crash made count as
	// used since this start, though some were not.
	Forfeited int64
	// Used is what all keys have used since the store was made, including
	// forgotten keys and excluding requests in flight.
	Used record.Amounts
	// Forgotten is what forgotten keys had used: a part of Used.
	Forgotten record.Amounts
	// ClockOff is how far the machine's clock is from the time by which limits
	// are judged, if it was set; 0 when it is believed.
	ClockOff time.Duration
	// Lockdown is the lockdown in force, or nil.
	Lockdown *LockedDown
}

// Stats returns the sums as they stand.
func (l *Limiter) Stats() Stats {
	t := l.sums.Known() // whose map is replaced, never changed
	s := Stats{Keys: maps.Clone(t.Keys), Used: t.Counted, Forgotten: t.Forgotten}
	s.Used.Add(s.Forgotten)
	for _, k := range l.everyActive() {
		k.mu.Lock()
		if !k.gone {
			s.Used.Add(k.spent)
			s.Used.Add(k.past)
			s.Used = s.Used.Minus(k.counted)
		}
		k.mu.Unlock()
	}
	s.ClockOff, s.Lockdown = l.clock.Doubt(), l.lockdown.State()
	s.Holds, s.Forfeited = l.holds.Load(), l.forfeited.Load()
	return s
}

// count moves a key from one status to another in the sums; "" stands for none.
func (b *batch) count(from, to record.Status) {
	if from == to {
		return
	}
	t := b.sums.Change(b.Transaction)
	if from != "" {
		t.Keys[from]--
	}
	if to != "" {
		t.Keys[to]++
	}
}
