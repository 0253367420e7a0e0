package limiter

import (
	"crypto/rand"
	"fmt"
	"maps"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Stats describes the limiter as a whole.
type Stats struct {
	// Keys counts keys by recorded status. An end that has not been noticed yet
	// is recorded within a minute.
	Keys map[record.Status]int64
	// Holds counts requests in flight.
	Holds int64
	// Forfeited is an upper bound on the activations that a crash has made count as
	// used since this process started, though some were not. It leaves out those of
	// requests that the crash ended, if the shadow knows of them.
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
	// Unread is why Keys, Used and Forgotten could not be read and so date from an
	// earlier moment; nil if they could.
	Unread error
}

// Stats returns the present sums over all nodes, in which unused reservations of other
// nodes count as used. Requests in flight and the activations that a crash forfeited are
// this node's.
func (l *Limiter) Stats() Stats {
	var s Stats
	if l.shared != nil {
		s.Unread = l.readSums()
	}
	t := l.sums.Known() // whose map is replaced, never changed
	s.Keys, s.Used, s.Forgotten = maps.Clone(t.Keys), t.Counted, t.Forgotten
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
func (b *batch) count(from, to record.Status) error {
	if from == to {
		return nil
	}
	t, err := b.sums.Change(b.Transaction)
	if err != nil {
		return err
	}
	if from != "" {
		t.Keys[from]--
	}
	if to != "" {
		t.Keys[to]++
	}
	return nil
}

// readSums reads the sums over all keys, which other nodes change, too.
func (l *Limiter) readSums() error {
	if err := l.fresh(); err != nil {
		return err // nobody waits here for a database that is away
	}
	t, err := store.Read(l.store, commit.ReadAllSums)
	if err != nil {
		return fmt.Errorf("reading the sums over all keys: %w", err)
	}
	l.sums.Follow(t)
	return nil
}

// takeShare begins this node's share of the sums.
func (l *Limiter) takeShare() error {
	if l.shared == nil {
		return nil
	}
	session := rand.Text()
	err := l.committer.DoPatiently(func(b *batch) error {
		return b.sums.TakeShare(b.Transaction, l.shared.Node(), session)
	}, nil)
	if err != nil {
		return fmt.Errorf("adding up what this node has counted before: %w", err)
	}
	return nil
}

// foldShares adds to the tally the shares of nodes that the store no longer lists: these
// cannot commit any more.
func (l *Limiter) foldShares() error {
	unlisted, err := store.Read(l.store, commit.ReadShares)
	if err != nil {
		return err
	}
	nodes, err := l.shared.Nodes() // after the shares: a node that comes back begins another
	if err != nil {
		return err
	}
	for _, node := range nodes {
		delete(unlisted, node.Name)
	}
	if len(unlisted) == 0 {
		return nil
	}
	return l.committer.DoPatiently(func(b *batch) error { return b.sums.Fold(b.Transaction, unlisted) }, nil)
}
