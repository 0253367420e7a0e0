package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// following is how far this node's memory has followed the feed: the rows of table feed,
// each of which names the keys that one commit has written and other nodes keep in memory.
type following struct {
	follower store.Follower
	wake     chan struct{} // there may be something to follow
	lapsed   chan struct{} // the time until which the node is fresh has changed
	recalls  chan []byte

	mu       sync.Mutex
	followed int64
	written  int64         // followed, as the node's session in the database has it
	stale    bool          // the node is not fresh, and the follower was told
	missed   bool          // the session had expired, rows were pruned, or a step failed: all is read again
	head     int64         // of the feed, when the session was renewed last
	sent     time.Duration // when that renewal was sent
}

// begin starts at the feed's head: there is nothing in memory yet.
func (f *following) begin(head int64, sent time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.followed, f.written, f.head, f.sent = head, head, head, sent
}

func (f *following) at() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.followed
}

func (s *Store) wakeFollower() {
	select {
	case s.follow.wake <- struct{}{}:
	default:
	}
}

// renewed notes an answered renewal; late says that the session had expired before it. A
// node that is fresh and has followed everything stays fresh at once. Otherwise the
// goroutine that follows decides, in becomeFresh.
func (s *Store) renewed(sent time.Duration, head int64, late bool) {
	f := &s.follow
	f.mu.Lock()
	// A renewal that was not answered may have come after the session's end, too.
	late = late || boottime()-f.sent >= sessionLife
	f.head, f.sent = head, sent
	f.missed = f.missed || late
	caughtUp := !f.missed && f.followed >= head
	if caughtUp && boottime() < time.Duration(s.fresh.Load()) && s.usable() == nil {
		s.fresh.Store(int64(sent + freshFor))
	}
	f.mu.Unlock()
	s.wakeFollower()
}

const (
	// followAgain is the pause after a step that failed.
	followAgain   = 250 * time.Millisecond
	followTimeout = 4 * time.Second
)

// followOthers calls the follower, until the store is closed.
func (s *Store) followOthers() {
	lost := false // following has failed, and that was reported
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-s.ending.Done():
			return
		case account := <-s.follow.recalls:
			s.follow.follower.Recalled(account)
			continue
		case <-s.follow.wake:
		case <-retry.C:
		}
		if s.failure.Load() != nil {
			continue // nothing can be followed any more
		}
		if err := s.catchUp(); err != nil {
			if s.ending.Err() == nil && !lost {
				s.log.Warn("following what other nodes have changed: it is tried again", "error", err)
			}
			lost = true
			retry.Reset(followAgain)
			continue
		}
		lost = false
		s.becomeFresh()
	}
}

// becomeFresh makes the node fresh if it has followed all that the last renewal knew of.
// A stale node first waits until the follower has been told so: by then, whatever was
// running has been cut off.
func (s *Store) becomeFresh() {
	f := &s.follow
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.missed || f.followed < f.head || s.usable() != nil {
		return
	}
	until := int64(f.sent + freshFor)
	if until <= s.fresh.Load() || until <= int64(boottime()) {
		return
	}
	if int64(boottime()) >= s.fresh.Load() && !f.stale {
		s.signalLapsed()
		return
	}
	f.stale = false
	s.fresh.Store(until)
	s.signalLapsed()
}

func (s *Store) signalLapsed() {
	select {
	case s.follow.lapsed <- struct{}{}:
	default:
	}
}

// tellStale tells the follower when the node is no longer fresh, and when it will never be
// again, until the store is closed. It does not wait for the follower's other work.
func (s *Store) tellStale() {
	f := &s.follow
	final := false // the follower was told that everything is refused from then on
	lapse := time.NewTimer(0)
	defer lapse.Stop()
	for {
		select {
		case <-s.ending.Done():
			return
		case <-f.lapsed:
		case <-lapse.C:
		}
		f.mu.Lock() // once it has lapsed, nothing makes it fresh before the follower was told
		left := time.Duration(s.fresh.Load()) - boottime()
		reported := f.stale && (final || s.failure.Load() == nil)
		f.mu.Unlock()
		switch {
		case left > 0:
			lapse.Reset(left)
		case !reported && s.ending.Err() == nil:
			err := s.lapse()
			f.follower.Stale(err)
			final = !errors.Is(err, store.ErrStale)
			f.mu.Lock()
			f.stale = true
			f.mu.Unlock()
			s.wakeFollower()
		}
	}
}

// catchUp follows the feed to its end.
func (s *Store) catchUp() error {
	f := &s.follow
	for {
		f.mu.Lock()
		missed, from := f.missed, f.followed
		f.mu.Unlock()
		if missed {
			if err := s.readAgain(); err != nil {
				return err
			}
			continue
		}
		rows, err := s.askFeed(say(s.sql.page, int8Of(from)))
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return s.writeFollowed()
		}
		if intFrom(rows[0][0]) != from+1 {
			f.setMissed()
			continue
		}
		var keys [][]byte
		for _, row := range rows {
			if string(row[1]) != s.options.Node {
				keys = append(keys, byteasFrom(row[2])...)
			}
		}
		if len(keys) > 0 {
			if err := f.follower.Changed(keys); err != nil {
				f.setMissed() // memory may hold a part of it
				return err
			}
		}
		if err := s.followedTo(intFrom(rows[len(rows)-1][0])); err != nil {
			return err
		}
	}
}

func (f *following) setMissed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missed = true
}

// readAgain lets the follower read all rows again, as of the feed's end or later.
func (s *Store) readAgain() error {
	rows, err := s.askFeed(say(s.sql.head))
	if err != nil {
		return err
	}
	f := &s.follow
	f.mu.Lock()
	f.missed = false // what is missed from here on sets it again
	f.mu.Unlock()
	if err := f.follower.Missed(); err != nil {
		f.setMissed()
		return err
	}
	return s.followedTo(intFrom(rows[0][0]))
}

// followedTo notes how far memory has followed.
func (s *Store) followedTo(seq int64) error {
	s.seen.raise(seq)
	f := &s.follow
	f.mu.Lock()
	f.followed = max(f.followed, seq)
	f.mu.Unlock()
	return s.writeFollowed()
}

// committed notes that this node has written a row of the feed. Its memory follows its
// own commits by itself.
func (s *Store) committed(seq int64) {
	s.seen.raise(seq)
	f := &s.follow
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.followed == seq-1 && !f.missed {
		f.followed = seq
	}
}

// writeFollowed writes into the session how far this node has followed, for the nodes
// that wait in Settled.
func (s *Store) writeFollowed() error {
	f := &s.follow
	f.mu.Lock()
	followed, written := f.followed, f.written
	f.mu.Unlock()
	if followed <= written {
		return nil
	}
	_, err := s.within(s.ending, followTimeout, say(lazySettings), say(s.sql.follow, textOf(s.options.Node), byteaOf(s.session), int8Of(followed)))
	if err == nil {
		f.mu.Lock()
		f.written = max(f.written, followed)
		f.mu.Unlock()
	}
	return err
}

func (s *Store) askFeed(what statement) ([][][]byte, error) {
	results, err := s.within(s.ending, followTimeout, what)
	if err != nil {
		return nil, err
	}
	return results[0].Rows, nil
}

// settledEvery is the pause between two looks at how far the others are.
const settledEvery = 10 * time.Millisecond

// Settled implements store.Shared.
func (s *Store) Settled(patience time.Duration) (behind []string, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ending, patience)
	defer cancel()
	head, asked := int64(-1), boottime()
	for {
		statements := []statement{say(s.sql.head)}
		if head >= 0 {
			statements[0] = say(s.sql.behind, int8Of(head), textOf(s.options.Node))
		}
		results, askErr := s.outside(ctx, statements...)
		switch {
		case askErr != nil:
			err = s.refuse(askErr)
		case head < 0:
			head = intFrom(results[0].Rows[0][0])
			continue
		default:
			behind, err = behind[:0], nil
			for _, row := range results[0].Rows {
				if name := string(row[0]); boolFrom(row[1]) || s.seen.mayBeFresh(name, intFrom(row[2]), asked) {
					behind = append(behind, name)
				}
			}
			if len(behind) == 0 {
				return nil, nil
			}
		}
		select {
		case <-time.After(settledEvery):
			continue
		case <-ctx.Done():
		}
		switch {
		case s.ending.Err() != nil:
			return nil, store.ErrClosed
		case len(behind) > 0:
			return behind, nil
		}
		return nil, err
	}
}
