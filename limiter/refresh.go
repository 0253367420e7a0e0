package limiter

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// A node follows the commits of other nodes by reading the records concerned again, not
// by repeating their acts: several of those may be read at once, and one of this node's
// own may have come in between. So a key's present state decides what has to happen: once
// it cannot be used, none of its requests goes on, whatever was done to it. Only a
// suspension that was lifted again before this node followed it cuts nothing here, and
// then the call that suspended had not been answered yet.

// followed reports whether the memory of other nodes depends on a row. That holds for
// keys, their lookups and the entries of their children; for admin tokens, jobs, the
// lockdown, the mark of the clock, and events for the readers of feeds. It does not hold
// for accounts: each transaction on a budget reads its account anyway. Budget that moves
// between the keys of a family shows in the child's entry, which is followed.
func followed(key []byte) bool {
	return slices.ContainsFunc(followedSpaces, func(space string) bool { return bytes.HasPrefix(key, []byte(space)) })
}

var followedSpaces = []string{
	record.SpaceKeys, record.SpaceLookups, record.SpaceChildren, record.SpaceTokens + "i/", record.SpaceJobs,
	string(event.SharedPrefix), string(lockdownKey), string(record.MetaClock),
}

// news lists the subjects of the rows that other nodes have written.
type news struct {
	keys    []string // whose records changed
	parents []string // of children that were made, granted more or returned
	lookups []token.Lookup
	tokens  []string
	events  [][]byte // of events

	jobs, lockdown, clock bool
}

// about sorts rows by their subjects.
func about(rows [][]byte) news {
	var n news
	for _, row := range rows {
		space, rest := string(row[:min(2, len(row))]), row[min(2, len(row)):]
		switch space {
		case record.SpaceKeys:
			n.keys = append(n.keys, string(rest))
		case record.SpaceChildren:
			parent, _, _ := strings.Cut(string(rest), "/")
			n.parents = append(n.parents, parent)
		case record.SpaceLookups:
			if len(rest) == len(token.Lookup{}) {
				n.lookups = append(n.lookups, token.Lookup(rest))
			}
		case record.SpaceTokens:
			if id, ok := strings.CutPrefix(string(rest), "i/"); ok {
				n.tokens = append(n.tokens, id)
			}
		case record.SpaceJobs:
			n.jobs = true
		}
		switch {
		case bytes.HasPrefix(row, event.SharedPrefix):
			n.events = append(n.events, row)
		case bytes.Equal(row, lockdownKey):
			n.lockdown = true
		case bytes.Equal(row, record.MetaClock):
			n.clock = true
		}
	}
	return n
}

// refreshStep bounds the keys that one look at the store reads, so that it holds up
// no commit for long.
const refreshStep = 256

// refresh lets memory follow what other nodes have written, and returns once it has.
func (l *Limiter) refresh(n news) error {
	if len(n.lookups) > 0 {
		l.unknown.learn(n.lookups...)
	}
	var err error
	if n.lockdown {
		err = l.followLockdown()
	}
	if n.clock {
		l.followClock()
	}
	err = errors.Join(err, l.refreshKeys(n.keys, n.parents))
	if len(n.tokens) > 0 {
		err = errors.Join(err, l.tokens.Follow(n.tokens))
	}
	if n.jobs { // after the keys, which a job does not pick if they changed after it
		err = errors.Join(err, l.followJobs())
	}
	if len(n.events) > 0 { // last, so that whoever hears of one finds its subject
		err = errors.Join(err, l.outbox.Follow(n.events))
	}
	return err
}

// refreshAll lets everything in memory follow.
func (l *Limiter) refreshAll() error {
	l.unknown.forget()
	l.outbox.Feeds.EndAll() // their readers have missed events: they connect again
	return errors.Join(l.followLockdown(), l.refreshKeys(l.everyID(), nil), l.tokens.Follow(nil), l.followJobs())
}

// refreshKeys reads again those of these keys that are in memory. For parents it also
// reads the keys above them, whose budgets may have moved.
func (l *Limiter) refreshKeys(ids, parents []string) error {
	type want struct {
		id    string
		above bool
	}
	var wanted []want
	for _, id := range ids {
		if l.known(id) {
			wanted = append(wanted, want{id, false})
		}
	}
	for _, id := range parents {
		wanted = append(wanted, want{id, true})
	}
	var failed error
	owes := false
	for step := range slices.Chunk(wanted, refreshStep) {
		var found []*standing
		err := l.committer.LookPatiently(func(r store.Reader) error {
			found = nil
			seen := make(map[string]bool, len(step))
			named := make([]string, len(step))
			for i, w := range step {
				named[i] = w.id
			}
			if err := l.fetchKeys(r, named); err != nil {
				return err
			}
			for _, w := range step {
				for id := w.id; id != "" && !seen[id]; {
					seen[id] = true
					if !w.above && !l.known(id) {
						break
					}
					s, err := l.standingOf(r, id)
					if err != nil {
						return err
					}
					if l.known(id) {
						found = append(found, s)
					}
					if id = ""; w.above && s.key != nil {
						id = s.key.Parent
					}
				}
			}
			return nil
		}, func() {
			for _, s := range found {
				owes = l.takeOver(s) || owes
			}
		})
		failed = errors.Join(failed, err)
	}
	if owes { // whoever has set the limit waits until the use is written
		failed = errors.Join(failed, l.Ping(context.Background()))
	}
	return failed
}

// standing is everything in the store about a key that memory goes by.
type standing struct {
	id       string
	damaged  error
	key      *record.Key // nil: it was forgotten
	acct     record.Account
	own      record.Part // this node's of the account
	children int
	salts    salts
}

// standingOf reads a key. If any part of it is damaged, only that is known of the key.
func (l *Limiter) standingOf(r store.Reader, id string) (*standing, error) {
	s, err := l.standingIn(r, id)
	if isDamaged(err) {
		return &standing{id: id, damaged: err}, nil
	}
	if errors.Is(err, store.ErrDoubt) {
		l.committer.Poison(err)
	}
	return s, err
}

func (l *Limiter) standingIn(r store.Reader, id string) (*standing, error) {
	s := &standing{id: id}
	key, acct, err := record.ReadKey(r, id)
	if errors.Is(err, store.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	s.key, s.acct = key, acct
	account, err := record.KeyAccount(id)
	if err != nil {
		return nil, err
	}
	if s.own, err = ownPart(r, l.node(), account, &acct); err != nil {
		return nil, err
	}
	if key.Delegate {
		if s.children, err = record.CountChildren(r, id); err != nil {
			return nil, err
		}
	}
	if key.Custody == record.CustodySealed && key.EndedStatus != record.Revoked {
		s.salts, err = readSalts(r, key)
	}
	return s, err
}

// takeOver lets memory go by what the store says of a key, and cuts the requests that may
// no longer run. It runs on the committer, so that it is neither behind nor ahead of this
// node's own writes. It reports whether the key has used more than it has reserved, because
// another node has just set the first limit: that use is then on its way to the store.
func (l *Limiter) takeOver(s *standing) (owes bool) {
	k := l.inMemory(s.id)
	if k == nil {
		return false
	}
	if s.key == nil {
		gone := record.UnknownKey()
		if l.leaveOut("following other nodes", s.id, s.damaged) {
			if k.stoppedHere() {
				return false // only memory knows that
			}
			gone = storeRefusal("its record could not be read")
		}
		l.dropFamily(k, gone)
		return false
	}
	now := l.clock.Now()
	var why *record.Refusal
	l.follow(s.key, func(k *Live) {
		l.lookedAt(&k.account, k, &s.acct, &s.own)
		fewer := s.children < k.children
		k.children = s.children
		if k.key.EndedStatus != record.Revoked && k.halt != record.CodeKeyRevoked {
			k.salts = s.salts
		}
		k.setMarks()
		if owes = k.overdrawn(); owes {
			l.askBlock(&k.account, k)
		}
		if why = k.stands(now); why != nil {
			l.reportUse(&k.account, k)
		} else if fewer {
			k.endIfSpent() // nothing will come back to it
		}
	})
	l.cutWhatMayNotRun(k, why, now)
	return owes
}

// cutWhatMayNotRun cuts all requests of a key that cannot be used, and otherwise those
// that came with a string that was replaced. why is the refusal of the key itself; if it
// is nil, the keys above are asked.
func (l *Limiter) cutWhatMayNotRun(k *Live, why *record.Refusal, now time.Time) {
	if why == nil {
		k.mu.Lock()
		_, why = k.fromAbove(now)
		k.mu.Unlock()
	}
	n := 0
	if why != nil {
		n = k.cut(why)
	}
	if n += k.cutReplaced(now); n > 0 {
		l.log.Info("another node has stopped a key", "key_id", k.Key().ID, "requests_cut", n)
	}
}

// recalled gives back the unused reservations of this node on an account, because a request
// on another node lacks them. It also writes what was spent: the other node believes that
// nothing is left only once no node has reserved more than it spent.
func (l *Limiter) recalled(id record.AccountID) {
	for _, a := range l.everyRole() {
		if a.id == id {
			a.mu.Lock()
			l.reportUse(a, nil)
			a.mu.Unlock()
			return
		}
	}
	key := id.KeyID()
	k := l.loaded(key)
	if k == nil {
		left, err := l.leftOver(id)
		if err == nil && left {
			k, err = l.load(key) // then all of it counts as spent
		}
		if errors.Is(err, store.ErrNotFound) { // a role that this node does not know, or not any more
			l.settleLeftOver(id)
			return
		}
		if err != nil {
			l.complain("what this node had reserved could not be read", err, "key_id", key)
		}
		if k == nil {
			return
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.gone {
		l.reportUse(&k.account, k)
	}
}

// reportUse writes what an account has spent and gives back the rest, unless the store
// has that already. If a block is on its way, this waits for it. Callers hold the
// account. k is the key that owns it; nil for a role.
func (l *Limiter) reportUse(a *account, k *Live) {
	write := func() {
		if _, unused := a.unused(); (unused || a.inStore != a.spent) && !a.asked && (k == nil || !k.gone) {
			l.save(a, k, true)
		}
	}
	if !a.asked {
		write()
		return
	}
	l.committer.Look(func(store.Reader) error { return nil }, func(err error) {
		if err == nil {
			a.mu.Lock()
			write()
			a.mu.Unlock()
		}
	})
}

// settleLeftOver counts as spent what a crash left reserved by this node on an account that
// belongs to no existing key: that of a role which this node does not know.
func (l *Limiter) settleLeftOver(id record.AccountID) {
	var lost record.Amounts
	a := &account{id: id}
	l.committer.SubmitRows(l.rows(a), func(b *batch) error {
		rec, own, err := b.books(a)
		if err != nil {
			return err
		}
		lost = own.Reserved.Minus(own.Settled)
		own.Settled = own.Reserved
		return errors.Join(b.setOwn(id, &rec, &own), b.setAccount(id, true, &rec))
	}, func(err error) {
		switch {
		case err == nil:
			l.forfeited.Add(lost[record.Activations])
		case !errors.Is(err, store.ErrNotFound): // otherwise its key was forgotten
			l.complain("counting as spent what this node had reserved failed", err)
		}
	})
}

// leftOver reports whether this node has an unspent reservation on an account that is not
// in memory: a crash left it.
func (l *Limiter) leftOver(id record.AccountID) (bool, error) {
	part, err := store.Read(l.store, func(r store.Reader) (record.Part, error) { return readPart(r, record.PartKey(id, l.node())) })
	return part.Reserved != part.Settled, err
}
