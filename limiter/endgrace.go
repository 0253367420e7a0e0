package limiter

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// graceEnd is the end of the grace of a key's former string.
type graceEnd struct {
	lookup token.Lookup
	by     Caller
	at     time.Time
}

// endGrace ends the grace of one former string, and cuts the requests that run with it. It
// takes effect in memory at once; an error says that it could not be made durable.
func (l *Limiter) endGrace(k *Live, by Caller, lookup token.Lookup) error {
	now := l.clock.Now().UTC()
	k.mu.Lock()
	key := k.key.Clone()
	ends := key.EndGrace(lookup, now)
	if ends {
		k.key, k.graceEnds = key, append(k.graceEnds, graceEnd{lookup, by, now})
		l.markActive(k)
	}
	k.mu.Unlock()
	cut := k.cutReplaced(now)
	if err := l.recordGraceEnds(k); err != nil {
		return err
	}
	if ends {
		l.log.Info("the grace of a key's former string was ended", "key_id", k.Key().ID, "requests_cut", cut, "by", by.Name)
	}
	return nil
}

// withGraceEnds returns a record of the key with the ends that hold in memory only. Callers
// hold the key.
func (k *Live) withGraceEnds(key *record.Key) *record.Key {
	if len(k.graceEnds) == 0 {
		return key
	}
	key = key.Clone()
	for _, e := range k.graceEnds {
		key.EndGrace(e.lookup, e.at)
	}
	return key
}

// endedGraceHere reports whether memory alone has ended the grace of a string.
func (k *Live) endedGraceHere(lookup token.Lookup) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.graceEnds, func(e graceEnd) bool { return e.lookup == lookup })
}

// recordGraceEnds makes durable the ends of graces that hold in memory only.
func (l *Limiter) recordGraceEnds(k *Live) error {
	k.mu.Lock()
	id, owed := k.key.ID, slices.Clone(k.graceEnds)
	k.mu.Unlock()
	for _, e := range owed {
		err := l.edit(e.by, audit.ActKeyEndGrace, id, func(key *record.Key, _ *record.Account) error {
			key.EndGrace(e.lookup, e.at)
			return nil
		}, func(k *Live) {
			k.graceEnds = slices.DeleteFunc(k.graceEnds, func(o graceEnd) bool { return o.lookup == e.lookup })
		})
		if errors.Is(err, store.ErrNotFound) { // the key is forgotten, and so are its strings
			return nil
		}
		if err != nil {
			return fmt.Errorf("the former string is stopped in memory, but that is not yet durable: %w", err)
		}
	}
	return nil
}
