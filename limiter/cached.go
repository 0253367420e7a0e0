package limiter

import (
	"slices"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

func (l *Limiter) markActive(k *Live) {
	if k.active {
		return
	}
	k.active = true
	l.activeMu.Lock()
	l.active[k] = struct{}{}
	l.activeMu.Unlock()
}

// retire takes a key off the list of active ones. Callers hold the key.
func (l *Limiter) retire(k *Live) {
	k.active = false
	l.activeMu.Lock()
	delete(l.active, k)
	l.activeMu.Unlock()
}

func (l *Limiter) everyActive() []*Live {
	l.activeMu.Lock()
	defer l.activeMu.Unlock()
	keys := make([]*Live, 0, len(l.active))
	for k := range l.active {
		keys = append(keys, k)
	}
	return keys
}

// everyLive lists the keys in memory. One that is just being read is left out,
// because it holds nothing yet.
func (l *Limiter) everyLive() []*Live {
	l.liveMu.Lock()
	defer l.liveMu.Unlock()
	keys := make([]*Live, 0, len(l.live))
	for _, e := range l.live {
		if k := e.peek(); k != nil {
			keys = append(keys, k)
		}
	}
	return keys
}

func (l *Limiter) everyRole() []*account {
	l.rolesMu.Lock()
	defer l.rolesMu.Unlock()
	accounts := make([]*account, 0, len(l.roles))
	for _, a := range l.roles {
		accounts = append(accounts, a)
	}
	return accounts
}

// cacheLookup remembers the way to a key, by one of its strings.
func (l *Limiter) cacheLookup(k *Live, lookup token.Lookup) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || !slices.Contains(k.key.Lookups(), lookup) {
		return
	}
	shard := &l.lookups[lookup[0]%lookupShards]
	shard.mu.Lock()
	shard.m[lookup] = k
	shard.mu.Unlock()
}

// uncache forgets the ways to a key. Callers hold the key.
func (l *Limiter) uncache(k *Live) {
	for _, lookup := range k.key.Lookups() {
		l.uncacheLookup(k, lookup)
	}
}

// uncacheFormer forgets the ways to a key that its next record no longer knows.
// Callers hold the key.
func (l *Limiter) uncacheFormer(k *Live, next *record.Key) {
	if k.key.Rotations == next.Rotations {
		return
	}
	known := next.Lookups()
	for _, lookup := range k.key.Lookups() {
		if !slices.Contains(known, lookup) {
			l.uncacheLookup(k, lookup)
		}
	}
}

func (l *Limiter) uncacheLookup(k *Live, lookup token.Lookup) {
	shard := &l.lookups[lookup[0]%lookupShards]
	shard.mu.Lock()
	if shard.m[lookup] == k {
		delete(shard.m, lookup)
	}
	shard.mu.Unlock()
}
