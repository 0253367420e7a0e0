package limiter

import (
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// Outbox returns what is to be delivered to webhooks. It does not check callers: only the
// code that delivers has it.
func (l *Limiter) Outbox() *event.Outbox { return l.outbox }

// ListHooks lists the webhooks for the operator.
func (l *Limiter) ListHooks(by Caller) ([]event.HookState, error) {
	if err := l.authorise(by, record.Everything, nil); err != nil {
		return nil, err
	}
	return l.outbox.Hooks()
}

// Subscribe lets a caller read what happens to the keys that it sees, from now on.
func (l *Limiter) Subscribe(by Caller) (*event.Feed, error) {
	if err := l.authorise(by, record.KeysRead, nil); err != nil {
		return nil, err
	}
	return l.outbox.Feeds.Subscribe(by.Token, feedReader{l, by})
}

// feedReader is a caller who reads a feed.
type feedReader struct {
	l  *Limiter
	by Caller
}

// MayRead implements event.Reader: the caller's token may have ended meanwhile.
func (r feedReader) MayRead() error {
	if r.by.Token != "" {
		if t, ok := r.l.tokens.Get(r.by.Token); !ok || t.Status(r.l.clock.Now()) != record.Active {
			return ErrToken
		}
	}
	return r.l.authorise(r.by, record.KeysRead, nil)
}

// Sees implements event.Reader: a caller sees events about keys that it sees, about tokens
// that it sees and may manage, and about all keys. It takes out of a lockdown's events who
// set it and why, unless the caller may know.
func (r feedReader) Sees(e *event.Event) bool {
	switch {
	case e.Key != nil:
		return r.l.Sees(r.by, e.Key)
	case e.Token != nil:
		return r.l.Allows(r.by, record.TokensManage) && r.l.seesToken(r.by, e.Token)
	}
	if (e.Name == event.LockdownSet || e.Name == event.LockdownLifted) && !r.l.SeesReason(r.by) {
		e.By, e.Reason = "", ""
	}
	return true
}

// emit reports an event that belongs to no transaction. Locks may be held.
func (l *Limiter) emit(e event.Event) {
	l.outbox.EmitNow(e, func(err error) { l.complainOfEvent(e.Name, err) })
}

func (l *Limiter) complainOfEvent(name event.Name, err error) {
	l.complain("an event could not be kept for webhooks", err, "event", string(name))
}

// emit reports an event of this transaction, which also queues it for webhooks.
func (b *batch) emit(e event.Event) error { return b.outbox.Emit(b.Transaction, e) }
