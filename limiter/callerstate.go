package limiter

import "github.com/till-proxy/till/limiter/record"

// Standing returns a caller as it is now, for code that has authenticated it
// before and acts for it again without its token's string. It is ErrToken if the
// token has ended since. The call counts as a use of the token. A node that has lost
// touch with the others says ErrStale, because it may not know.
//
// Callers without a token are returned as they are: nothing ends them.
func (l *Limiter) Standing(by Caller) (Caller, error) {
	if by.Token == "" {
		return by, nil
	}
	if err := l.fresh(); err != nil {
		return Caller{}, err
	}
	now := l.clock.Now()
	l.tokens.mu.RLock()
	defer l.tokens.mu.RUnlock()
	live := l.tokens.byID[by.Token]
	if live == nil || live.rec.Status(now) != record.Active {
		return Caller{}, ErrToken
	}
	live.used.Store(now.UnixNano())
	return Caller{Name: live.rec.Name, Token: live.rec.ID, Role: live.rec.Role, From: by.From}, nil
}
