package limiter

import (
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Entries counts what the store has of a key's lookups and salts.
func (l *Limiter) Entries(id string) (lookups, salts int, err error) {
	err = l.store.View(func(r store.Reader) error {
		err := r.Scan([]byte(record.SpaceLookups), nil, false, func(_, value []byte) (bool, error) {
			if string(value) == id {
				lookups++
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		return r.Scan(record.SaltKey(id), nil, false, func(_, _ []byte) (bool, error) {
			salts++
			return true, nil
		})
	})
	return lookups, salts, err
}

// Ways counts by how many strings a key is found in memory.
func (l *Limiter) Ways(id string) (n int) {
	for i := range l.lookups {
		shard := &l.lookups[i]
		shard.mu.RLock()
		for _, k := range shard.m {
			if k.key.ID == id {
				n++
			}
		}
		shard.mu.RUnlock()
	}
	return n
}
