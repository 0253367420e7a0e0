package limiter

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// tokenStop is the end of an admin token.
type tokenStop struct {
	by     Caller
	action string // in the audit log
	at     time.Time
}

// tokenStops are the ends of admin tokens that hold in memory and are not durable yet, by
// the token's id.
type tokenStops struct {
	mu   sync.Mutex
	all  map[string]tokenStop
	next *Limiter // has taken over, and hears of those that are added since
}

// add keeps the first end of a token.
func (s *tokenStops) add(id string, stop tokenStop) {
	s.mu.Lock()
	if s.all == nil {
		s.all = make(map[string]tokenStop)
	}
	if _, there := s.all[id]; !there {
		s.all[id] = stop
	}
	next := s.next
	s.mu.Unlock()
	if next != nil {
		next.stopToken(id, stop)
	}
}

func (s *tokenStops) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

func (s *tokenStops) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.all[id]
	return there
}

// list returns them; next, unless nil, hears of those that are added from then on.
func (s *tokenStops) list(next *Limiter) map[string]tokenStop {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next != nil {
		s.next = next
	}
	return maps.Clone(s.all)
}

// stopToken ends a token in memory, and keeps that until it is durable.
func (l *Limiter) stopToken(id string, stop tokenStop) {
	l.tokens.Stop(id, stop.at)
	l.tokenStops.add(id, stop)
}

// endToken ends a token on behalf of a caller that is entitled to do so, first in memory
// and then in the store.
func (l *Limiter) endToken(by Caller, action, id string) error {
	stop := tokenStop{by, action, l.clock.Now().UTC()}
	l.stopToken(id, stop)
	err := l.recordTokenStop(id, stop)
	if !endsToken(err) {
		err = notDurable("token", err)
	}
	return err
}

// recordTokenStop makes durable that a token has ended.
func (l *Limiter) recordTokenStop(id string, stop tokenStop) error {
	var rec *record.AdminToken
	err := l.committer.Do(func(b *batch) error {
		before, err := record.ReadToken(b, id)
		if err != nil {
			return err
		}
		after := *before
		rec = &after
		if !before.RevokedAt.IsZero() {
			return nil
		}
		after.RevokedAt = stop.at
		if stop.action == audit.ActTokenLeak {
			err = b.emit(event.Event{Name: event.KeyLeaked, Token: rec, By: stop.by.Name})
		}
		return errors.Join(err, rec.Write(b), b.audit(stop.by.entry(stop.action, id, record.Deltas(before.Facts(stop.at), after.Facts(stop.at)))))
	}, func() { l.tokens.Changed(rec) })
	l.tokens.LeaveOut(id, err) // a damaged one works no more, though its end is not durable
	if endsToken(err) {
		l.tokenStops.drop(id)
	}
	if err == nil {
		l.log.Info("admin token revoked", "token_id", id, "name", rec.Name, "by", stop.by.Name)
	}
	return err
}

// endsToken reports whether no token is left that could work, after an attempt to record its
// end: it was recorded, or there is no such token, or its record cannot be read.
func endsToken(err error) bool {
	return err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, record.ErrRecord)
}

// redoTokenStops is redoStops for admin tokens.
func (l *Limiter) redoTokenStops() {
	for id, stop := range l.tokenStops.list(nil) {
		err := l.recordTokenStop(id, stop)
		if endsToken(err) {
			continue
		}
		l.log.Warn("the end of an admin token could still not be made durable", "token_id", id, "error", err)
		if l.takesNothing(err) {
			return
		}
	}
}

// inheritTokenStops takes over what a former Limiter could not make durable.
func (l *Limiter) inheritTokenStops(former *Limiter) {
	for id, stop := range former.tokenStops.list(l) {
		l.stopToken(id, stop)
	}
}
