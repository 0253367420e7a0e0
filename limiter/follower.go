package limiter

import (
	"errors"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Several nodes may share a store, and each is a Limiter of its own: equal to the
// others, and hearing from them only through the store. What a node has
// reserved of a budget is durable in the store before it is used, so budgets are exact
// whatever a node knows of the others. It must hear in time what they decide about a
// key: it follows their commits (see refresh.go), and refuses everything while it
// cannot be sure that it does.
//
// A store that is not a store.Shared has one node, and none of this applies to it.

// settlePatience is how long an act that stops something waits for the other nodes.
// A node that has not followed by then admits nothing: it has lost touch for longer
// than it may.
const settlePatience = 10 * time.Second

// join begins this node's session. It comes before anything is read or written that
// other nodes may change.
func (l *Limiter) join(o *Options) error {
	shared, ok := o.Store.(store.Shared)
	if !ok {
		return nil
	}
	if o.Anchor != "" {
		return errors.New("anchor: a store that several nodes share has none, because it knows by itself whether it has lost commits: leave out Anchor, or give a Store of one node")
	}
	l.shared, l.follower = shared, &follower{l: l, former: o.After}
	l.unknown.slots = make(chan struct{}, maxLookUps)
	nodes, err := shared.Nodes()
	if err != nil {
		return err
	}
	var seen time.Time // the latest time at which any node was there
	for i := range nodes {
		if nodes[i].Seen.After(seen) {
			seen = nodes[i].Seen
		}
	}
	if err := shared.Join(l.follower); err != nil {
		return err
	}
	now, _ := o.Clock.Now()
	l.forgetLater(now, seen)
	return nil
}

// ListNodes is Nodes for a caller.
func (l *Limiter) ListNodes(by Caller) ([]store.Node, error) {
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return nil, err
	}
	return l.Nodes()
}

// Pending waits until every node has followed all that is durable by now, for ten
// seconds at most, and returns the names of those that have not: they have lost touch
// and admit nothing, or will follow in a moment. If the store cannot say which these
// are, it returns all other nodes that live.
func (l *Limiter) Pending() []string {
	if l.shared == nil {
		return nil
	}
	behind, err := l.shared.Settled(settlePatience)
	if err == nil {
		return behind
	}
	l.complain("it is not known whether the other nodes have followed", err)
	return l.others()
}

// countEvery is the time between two looks at which nodes live.
const countEvery = time.Second

// countLoop keeps count of the nodes.
func (l *Limiter) countLoop() {
	count := time.NewTicker(countEvery)
	defer count.Stop()
	for {
		if err := l.recount(); err != nil {
			l.complain("reading which nodes live failed", err)
		}
		select {
		case <-l.stop:
			return
		case <-count.C:
		}
	}
}

// follower keeps this Limiter's memory in step with what the store says other nodes have done.
type follower struct {
	l *Limiter

	mu     sync.Mutex
	former *Limiter // whose requests run while l is opened; nil: none do
	opened bool     // the Limiter has in memory all that it begins with
	missed bool     // something happened before that
}

var errNotOpen = errors.New("this node is still opening the store")

// early reports whether the Limiter is still being opened. Until it is open it serves
// nothing, so what happens meanwhile is only noted; open reads everything again. Where
// requests of a former Limiter run, the news may concern them: err then says that it is
// not followed yet.
func (f *follower) early() (early bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missed = f.missed || !f.opened
	if f.former != nil {
		err = errNotOpen
	}
	return !f.opened, err
}

// open lets memory catch up with what happened while it was filled. What happens from
// here on is followed alongside, so that a start does not last as long as other nodes are
// busy. After a former Limiter it cannot fail: what was not followed is reported again.
func (f *follower) open() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	again := f.missed && f.former == nil
	f.opened, f.former = true, nil
	f.mu.Unlock()
	if err := f.l.fresh(); err != nil && !errors.Is(err, store.ErrStale) { // Stale may have said so before
		f.l.committer.Poison(err)
	}
	if !again {
		return nil
	}
	return f.l.refreshAll()
}

// Follows implements store.Follower.
func (f *follower) Follows(key []byte) bool { return followed(key) }

// Changed implements store.Follower.
func (f *follower) Changed(keys [][]byte) error {
	if early, err := f.early(); early {
		return err
	}
	return f.l.refresh(about(keys))
}

// Missed implements store.Follower.
func (f *follower) Missed() error {
	if early, err := f.early(); early {
		return err
	}
	return f.l.refreshAll()
}

// Recalled implements store.Follower.
func (f *follower) Recalled(account []byte) {
	if early, _ := f.early(); len(account) == len(record.AccountID{}) && !early {
		f.l.recalled(record.AccountID(account))
	}
}

// Stale implements store.Follower. From here on nothing is admitted, and what runs is
// cut at once: the key of a stream could have been revoked at any time since the last
// contact. A node finds out after seven seconds that it has lost touch, so a revocation
// is felt on every node within ten, by streams as well. The price is that a database
// which is away for longer than seven seconds ends every stream.
func (f *follower) Stale(err error) {
	f.mu.Lock()
	former, opened := f.former, f.opened
	f.mu.Unlock()
	if former == nil && !opened {
		return // nothing runs
	}
	n := 0
	if former != nil { // first, as it gives its requests to l
		n = former.cutAll(outOfTouch(err))
	}
	n += f.l.cutAll(outOfTouch(err))
	if opened && !errors.Is(err, store.ErrStale) { // the store refuses everything from here on
		f.l.committer.Poison(err)
	}
	f.l.log.Error("this node has lost touch with the database: nothing is admitted until it is found again", "requests_cut", n, "error", err)
}

// Interface guards
var _ store.Follower = (*follower)(nil)
