package limiter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// feedBuffer bounds the events that wait for one reader of a feed, maxFeeds the
// readers of all, and maxFeedsOf those with one admin token, so that nobody
// takes all of them.
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

// Feed yields the events that a caller may see, from now on.
type Feed struct {
	l      *Limiter
	by     Caller
	events chan Event

	mu  sync.Mutex
	err error // why it has ended
}

// feeds are those that are being read.
type feeds struct {
	mu  sync.Mutex
	all map[*Feed]struct{}
}

// of counts the readers with an admin token. Callers hold the feeds.
func (f *feeds) of(token string) (n int) {
	for feed := range f.all {
		if feed.by.Token == token {
			n++
		}
	}
	return n
}

// Subscribe lets a caller read what happens to the keys that it sees.
func (l *Limiter) Subscribe(by Caller) (*Feed, error) {
	if err := l.authorise(by, record.KeysRead, nil); err != nil {
		return nil, err
	}
	f := &Feed{l: l, by: by, events: make(chan Event, feedBuffer)}
	l.feeds.mu.Lock()
	defer l.feeds.mu.Unlock()
	switch {
	case l.closed.Load():
		return nil, store.ErrClosed
	case len(l.feeds.all) >= maxFeeds, by.Token != "" && l.feeds.of(by.Token) >= maxFeedsOf:
		return nil, ErrFeeds
	}
	if l.feeds.all == nil {
		l.feeds.all = make(map[*Feed]struct{})
	}
	l.feeds.all[f] = struct{}{}
	return f, nil
}

// Next waits for an event, at most so long; nil when none came. A caller whose
// token has ended, or whose role may read no more, gets an error.
func (f *Feed) Next(ctx context.Context, patience time.Duration) (*Event, error) {
	wait := time.NewTimer(patience)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait.C:
			return nil, f.l.stillMay(f.by, record.KeysRead)
		case e, open := <-f.events:
			if !open {
				f.mu.Lock()
				defer f.mu.Unlock()
				return nil, f.err
			}
			if err := f.l.stillMay(f.by, record.KeysRead); err != nil {
				return nil, err
			}
			if f.l.seesEvent(f.by, &e) {
				if (e.Name == LockdownSet || e.Name == LockdownLifted) && !f.l.SeesReason(f.by) {
					e.By, e.Reason = "", ""
				}
				return &e, nil
			}
		}
	}
}

// Close ends the feed.
func (f *Feed) Close() { f.end(ErrFeedClosed) }

func (f *Feed) end(why error) {
	f.l.feeds.mu.Lock()
	defer f.l.feeds.mu.Unlock()
	f.endHeld(why)
}

// endHeld is end for callers that hold all feeds.
func (f *Feed) endHeld(why error) {
	if _, reading := f.l.feeds.all[f]; !reading {
		return
	}
	delete(f.l.feeds.all, f)
	f.mu.Lock()
	f.err = why
	f.mu.Unlock()
	close(f.events)
}

// EndFeeds ends all feeds: their readers connect again.
func (l *Limiter) EndFeeds() {
	l.feeds.mu.Lock()
	defer l.feeds.mu.Unlock()
	for f := range l.feeds.all {
		f.endHeld(ErrFeedClosed)
	}
}

// publish hands an event to all feeds. It never waits: a feed that is read too
// slowly ends.
func (l *Limiter) publish(e Event) {
	l.feeds.mu.Lock()
	defer l.feeds.mu.Unlock()
	for f := range l.feeds.all {
		select {
		case f.events <- e:
		default:
			f.endHeld(ErrFeedSlow)
		}
	}
}

// stillMay checks a caller again, because its token may have ended meanwhile.
func (l *Limiter) stillMay(by Caller, p record.Permission) error {
	if by.Token != "" {
		l.tokens.mu.RLock()
		live := l.tokens.byID[by.Token]
		active := live != nil && live.rec.Status(l.clock.Now()) == record.Active
		l.tokens.mu.RUnlock()
		if !active {
			return ErrToken
		}
	}
	return l.authorise(by, p, nil)
}

// seesEvent reports whether a caller may see an event: those about keys that it
// sees, about tokens if it may manage them, and about all keys.
func (l *Limiter) seesEvent(by Caller, e *Event) bool {
	switch {
	case e.Key != nil:
		return l.Sees(by, e.Key)
	case e.Token != nil:
		return l.Allows(by, record.TokensManage) && l.seesToken(by, e.Token)
	}
	return true
}

// SeesReason reports whether a caller may see who set a lockdown, and why: it has
// to see every key or every act. All others see that there is one, and holders of
// keys see the reason in each refusal.
func (l *Limiter) SeesReason(by Caller) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	role := l.policy(by.Role)
	return role != nil && role.Sees == record.SeesAll && (l.Allows(by, record.KeysRead) || l.Allows(by, record.AuditRead))
}

// JSON is the event as webhooks and feeds send it. It never contains a secret.
func (e *Event) JSON() ([]byte, error) { return e.payload() }

// payload is the event in the shape of Standard Webhooks.
func (e *Event) payload() ([]byte, error) {
	b, err := json.Marshal(struct {
		Type      EventName      `json:"type"`
		Timestamp string         `json:"timestamp"`
		Data      map[string]any `json:"data"`
	}{e.Name, e.At.UTC().Format(time.RFC3339Nano), e.Data()})
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", e.Name, err)
	}
	return b, nil
}

// Data are the particulars of the event, also for handlers of Caddy's events.
func (e *Event) Data() map[string]any {
	data := map[string]any{"time": e.At.UTC().Format(time.RFC3339Nano)}
	text := func(name, value string) { data[name] = token.Scrub(value) }
	if k := e.Key; k != nil {
		data["key_id"], data["upstream"], data["role"] = k.ID, k.Upstream, k.Role
		text("key_name", k.Name)
		text("owner", k.Owner)
		if k.Parent != "" {
			data["parent"] = k.Parent
		}
	}
	if e.Reason != "" {
		text("reason", e.Reason)
	}
	if t := e.Token; t != nil {
		data["token_id"], data["role"] = t.ID, t.Role
		text("token_name", t.Name)
	}
	if e.By != "" {
		text("by", e.By)
	}
	if e.Code != "" {
		data["code"] = string(e.Code)
		if e.Key != nil {
			text("reason", e.Key.EndedReason)
		}
	}
	if e.Name == KeyStale {
		data["unused_since"] = record.Stamp(e.Since)
		if !e.EndsAt.IsZero() {
			data["revoked_at"] = record.Stamp(e.EndsAt)
		}
	}
	if e.Name == KeyAfterDeath {
		data["count"], data["from"], data["canary"] = e.Count, e.From, e.Canary
	}
	if e.Name == KeyThreshold {
		data["percent"] = e.Percent
		data["limit_of"], data["used"], data["limit"] = e.Kind.Unit(), e.Kind.Value(e.Used), e.Kind.Value(e.Limit)
	}
	return data
}
