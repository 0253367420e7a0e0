package limiter

import (
	"errors"
	"strings"

	"github.com/till-proxy/till/limiter/store"
)

// Leads reports whether this node is the leader, which runs the shared jobs, such as sweeping.
func (l *Limiter) Leads() bool { return l.leads() }

// Ready returns why nothing is admitted now, in words that tell a stranger nothing about
// the store, or nil. It uses neither disk nor network.
func (l *Limiter) Ready() error {
	switch err := l.Failed(); {
	case errors.As(err, new(*store.Contradiction)):
		return errors.New("a record contradicts what this node knows, again: it stays closed until it is restarted")
	case errors.Is(err, store.ErrDoubt):
		return errors.New("the store is in doubt")
	}
	if refusal := l.unavailable(); refusal != nil {
		return errors.New(strings.TrimPrefix(refusal.Message, notChecked))
	}
	return nil
}
