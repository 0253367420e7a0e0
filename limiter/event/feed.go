package event

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// feedBuffer bounds the events that wait for one reader of a feed, maxFeeds the
// readers of all feeds, and maxFeedsOf the readers with one admin token, so that
// nobody takes all feeds.
const (
	feedBuffer = 256
	maxFeeds   = 256
	maxFeedsOf = 32
)

// Why a feed ends.
var (
	ErrFeedSlow   = errors.New("the feed was read too slowly")
	ErrFeedClosed = errors.New("the server is stopping or has a new configuration: connect again")
	ErrFeeds      = fmt.Errorf("%d feeds of events are being read, or %d with this token, and no more are allowed", maxFeeds, maxFeedsOf)
)

// Reader is whoever reads a feed.
type Reader interface {
	// MayRead returns why the reader may read no more, or nil.
	MayRead() error
	// Sees reports whether the reader may see an event, and removes the parts that the
	// reader may not see.
	Sees(e *Event) bool
}

// Feed yields the events that its reader may see, from when it began.
type Feed struct {
	all    *Feeds
	reader Reader
	token  string
	events chan Event

	mu  sync.Mutex
	err error // why it has ended
}

// Feeds are all feeds that are being read.
type Feeds struct {
	mu     sync.Mutex
	all    map[*Feed]struct{}
	closed bool
}

// of counts the readers with an admin token. Callers hold f.mu.
func (f *Feeds) of(token string) (n int) {
	for feed := range f.all {
		if feed.token == token {
			n++
		}
	}
	return n
}

// Subscribe begins a feed. token is the id of the reader's admin token; empty if it has
// none.
func (f *Feeds) Subscribe(token string, r Reader) (*Feed, error) {
	feed := &Feed{all: f, reader: r, token: token, events: make(chan Event, feedBuffer)}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, store.ErrClosed
	case len(f.all) >= maxFeeds, token != "" && f.of(token) >= maxFeedsOf:
		return nil, ErrFeeds
	}
	if f.all == nil {
		f.all = make(map[*Feed]struct{})
	}
	f.all[feed] = struct{}{}
	return feed, nil
}

// Next waits for an event, at most for patience, and returns nil if none
// came. A reader that may read no more gets an error.
func (f *Feed) Next(ctx context.Context, patience time.Duration) (*Event, error) {
	wait := time.NewTimer(patience)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait.C:
			return nil, f.reader.MayRead()
		case e, open := <-f.events:
			if !open {
				f.mu.Lock()
				defer f.mu.Unlock()
				return nil, f.err
			}
			if err := f.reader.MayRead(); err != nil {
				return nil, err
			}
			if f.reader.Sees(&e) {
				return &e, nil
			}
		}
	}
}

// Close ends the feed.
func (f *Feed) Close() {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.end(ErrFeedClosed)
}

// end ends the feed, unless it has ended. Callers hold f.all.mu.
func (f *Feed) end(why error) {
	if _, reading := f.all.all[f]; !reading {
		return
	}
	delete(f.all.all, f)
	f.mu.Lock()
	f.err = why
	f.mu.Unlock()
	close(f.events)
}

// EndAll ends all feeds: their readers connect again.
func (f *Feeds) EndAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for feed := range f.all {
		feed.end(ErrFeedClosed)
	}
}

// Close ends all feeds, and lets no other begin.
func (f *Feeds) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.EndAll()
}

// publish hands an event to all feeds. It never waits: a feed that is read too
// slowly ends.
func (f *Feeds) publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for feed := range f.all {
		select {
		case feed.events <- e:
		default:
			feed.end(ErrFeedSlow)
		}
	}
}
