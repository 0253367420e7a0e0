package limiter

import (
	"maps"
	"slices"
	"sync"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

const lookupShards = 64

// cache is what a Limiter keeps of the store: the keys that were used lately, the ways
// to them, and the accounts of roles. It neither reads nor writes the store; load and evict
// decide what it holds.
type cache struct {
	// lookups finds keys by the hash of their string without a shared lock.
	lookups [lookupShards]struct {
		mu sync.RWMutex
		m  map[token.Lookup]*Live
	}

	liveMu sync.Mutex
	live   map[string]*entry // by key id
	// pacings are those of keys that left memory with a rate used up.
	pacings map[record.AccountID]pacing

	activeMu sync.Mutex
	active   map[*Live]struct{} // keys with something to give back, save or cut

	rolesMu sync.Mutex
	roles   map[string]*account // also of roles that are not configured now
}

// clear makes the cache empty.
func (c *cache) clear() {
	for i := range c.lookups {
		c.lookups[i].m = make(map[token.Lookup]*Live)
	}
	c.live, c.pacings = make(map[string]*entry), make(map[record.AccountID]pacing)
	c.active, c.roles = make(map[*Live]struct{}), make(map[string]*account)
}

// entry is the place of a key in cache.live, also while it is being read.
type entry struct {
	ready chan struct{}
	k     *Live
	err   error
	stale bool // the record changed while it was read
}

// peek returns the key if it has been read, without waiting for that.
func (e *entry) peek() *Live {
	if e == nil {
		return nil
	}
	select {
	case <-e.ready:
		return e.k // nil when it could not be read
	default:
		return nil
	}
}

// loaded returns a key if it is in memory, without reading it.
func (c *cache) loaded(id string) *Live {
	c.liveMu.Lock()
	defer c.liveMu.Unlock()
	return c.live[id].peek()
}

// known reports whether a key is in memory, or on its way there.
func (c *cache) known(id string) bool {
	c.liveMu.Lock()
	defer c.liveMu.Unlock()
	return c.live[id] != nil
}

// inMemory returns a key whose record was just committed, or nil when it is not
// in memory. One that is being read is read again.
func (c *cache) inMemory(id string) *Live {
	c.liveMu.Lock()
	defer c.liveMu.Unlock()
	e := c.live[id]
	k := e.peek()
	if e != nil && k == nil {
		e.stale = true
	}
	return k
}

// everyLive lists the keys in memory. One that is just being read is left out,
// because it holds nothing yet.
func (c *cache) everyLive() []*Live {
	c.liveMu.Lock()
	defer c.liveMu.Unlock()
	keys := make([]*Live, 0, len(c.live))
	for _, e := range c.live {
		if k := e.peek(); k != nil {
			keys = append(keys, k)
		}
	}
	return keys
}

// everyID lists the keys in memory, and those that are being read.
func (c *cache) everyID() []string {
	c.liveMu.Lock()
	defer c.liveMu.Unlock()
	return slices.Collect(maps.Keys(c.live))
}

// markActive puts a key on the list of active ones. Callers hold the key.
func (c *cache) markActive(k *Live) {
	if k.active {
		return
	}
	k.active = true
	c.activeMu.Lock()
	c.active[k] = struct{}{}
	c.activeMu.Unlock()
}

// retire takes a key off the list of active ones. Callers hold the key.
func (c *cache) retire(k *Live) {
	k.active = false
	c.activeMu.Lock()
	delete(c.active, k)
	c.activeMu.Unlock()
}

// everyActive lists the active keys.
func (c *cache) everyActive() []*Live {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	return slices.Collect(maps.Keys(c.active))
}

// everyRole lists the accounts of roles.
func (c *cache) everyRole() []*account {
	c.rolesMu.Lock()
	defer c.rolesMu.Unlock()
	return slices.Collect(maps.Values(c.roles))
}

// everyAccount calls fn with each account in memory, locked: first those of keys, with the
// key that owns the account, and then those of roles, with nil.
func (c *cache) everyAccount(fn func(a *account, k *Live)) {
	for _, k := range c.everyLive() {
		k.mu.Lock()
		fn(&k.account, k)
		k.mu.Unlock()
	}
	for _, a := range c.everyRole() {
		a.mu.Lock()
		fn(a, nil)
		a.mu.Unlock()
	}
}

// cacheLookup remembers the way to a key, by one of its strings.
func (c *cache) cacheLookup(k *Live, lookup token.Lookup) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone || !slices.Contains(k.key.Lookups(), lookup) {
		return
	}
	shard := &c.lookups[lookup[0]%lookupShards]
	shard.mu.Lock()
	shard.m[lookup] = k
	shard.mu.Unlock()
}

// uncache forgets the ways to a key. Callers hold the key.
func (c *cache) uncache(k *Live) {
	for _, lookup := range k.key.Lookups() {
		c.uncacheLookup(k, lookup)
	}
}

// uncacheFormer forgets the ways to a key that its next record no longer knows.
// Callers hold the key.
func (c *cache) uncacheFormer(k *Live, next *record.Key) {
	if k.key.Rotations == next.Rotations {
		return
	}
	known := next.Lookups()
	for _, lookup := range k.key.Lookups() {
		if !slices.Contains(known, lookup) {
			c.uncacheLookup(k, lookup)
		}
	}
}

func (c *cache) uncacheLookup(k *Live, lookup token.Lookup) {
	shard := &c.lookups[lookup[0]%lookupShards]
	shard.mu.Lock()
	if shard.m[lookup] == k {
		delete(shard.m, lookup)
	}
	shard.mu.Unlock()
}
