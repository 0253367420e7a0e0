package limiter

import (
	"slices"
	"time"
)

// maxLive is how many keys may be in memory, about 2 kB each, before those that have
// been unused for some seconds have to go. A key that comes back is read and
// checked again, which costs more than its memory as long as there is enough. Keys
// in use stay, however many there are.
const maxLive = 10_000

// shrink keeps the number of keys in memory down by evicting the longest unused first.
func (l *Limiter) shrink(most int) {
	l.liveMu.Lock()
	n := len(l.live)
	l.liveMu.Unlock()
	over := n - most
	if over <= 0 {
		return
	}
	type idle struct {
		id   string
		last int64
	}
	before := l.clock.Now().Add(-2 * idleBlock).UnixNano()
	var all []idle
	for _, k := range l.everyLive() {
		k.mu.Lock()
		if last := max(k.last, k.savedAt-int64(time.Second)); last < before && k.inflight == 0 && !k.active {
			all = append(all, idle{k.key.ID, last})
		}
		k.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b idle) int { return int(min(max(a.last-b.last, -1), 1)) })
	for _, k := range all[:min(over+most/8, len(all))] { // and a little more, so that it is not done each time
		l.evict(k.id)
	}
}
