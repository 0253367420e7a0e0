package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

const (
	// idleTime is how long a session may be unused before it ends. An open page
	// with live figures uses its session while the page is visible.
	idleTime = time.Hour
	// sessionTime is how long a session lasts at most.
	sessionTime = 12 * time.Hour
	// linkTime is how long a one-time link works.
	linkTime = 10 * time.Minute

	// The tables are bounded: the least recently used session makes room for a new
	// one, and the oldest link for a new link.
	maxSessions = 1024
	// maxSessionsOf bounds the sessions of one token, so that signing in again and
	// again ends nobody else's session.
	maxSessionsOf = 64
	maxLinks      = 64
)

// hash is what is kept in place of a secret.
type hash [sha256.Size]byte

// newSecret makes 192 random bits and their hash. That is too much to guess, and
// short enough for a link that fits on a line.
func newSecret() (token.Secret, hash) {
	var b [24]byte
	rand.Read(b[:]) //nolint:errcheck // it never fails; see its documentation
	text := base64.RawURLEncoding.EncodeToString(b[:])
	return token.NewSecret(text), sha256.Sum256([]byte(text))
}

// session is a browser in which somebody has signed in. Its id travels in a cookie
// and its proof in a header. The id alone opens nothing: browsers send a host's
// cookies to every port of the host, so another server on this machine sees it.
// Only pages of this very origin can read the proof.
type session struct {
	id      hash
	proof   hash
	caller  limiter.Caller
	expires time.Time
	used    time.Time     // guarded by Sessions.mu
	ended   chan struct{} // closed when the session ends
}

type link struct {
	caller  limiter.Caller
	expires time.Time
}

// Sessions is the table of sessions and links. It is kept in memory: it survives a
// reload of the configuration, and ends with the process.
type Sessions struct {
	now func() time.Time

	mu    sync.Mutex
	all   map[hash]*session
	links map[hash]link
}

// NewSessions returns an empty table. now is the clock; nil means the system's.
func NewSessions(now func() time.Time) *Sessions {
	if now == nil {
		now = time.Now
	}
	return &Sessions{now: now, all: make(map[hash]*session), links: make(map[hash]link)}
}

// Link makes a secret that signs in once, as the caller, within ten minutes.
func (s *Sessions) Link(caller limiter.Caller) (token.Secret, time.Time) {
	secret, sum := newSecret()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var oldest hash
	for h, l := range s.links {
		switch {
		case !now.Before(l.expires):
			delete(s.links, h)
		case s.links[oldest].expires.IsZero() || l.expires.Before(s.links[oldest].expires):
			oldest = h
		}
	}
	if len(s.links) >= maxLinks {
		delete(s.links, oldest)
	}
	expires := now.Add(linkTime)
	s.links[sum] = link{caller, expires}
	return secret, expires
}

// redeem uses up a link and returns its caller.
func (s *Sessions) redeem(secret string) (limiter.Caller, error) {
	sum := hash(sha256.Sum256([]byte(secret)))
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.links[sum]
	delete(s.links, sum)
	if !ok || !s.now().Before(l.expires) {
		return limiter.Caller{}, errLink
	}
	return l.caller, nil
}

// begin makes a session and returns what its browser needs.
func (s *Sessions) begin(caller limiter.Caller) (_ *session, id, proof token.Secret) {
	n := &session{caller: caller, ended: make(chan struct{})}
	id, n.id = newSecret()
	proof, n.proof = newSecret()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	n.used, n.expires = now, now.Add(sessionTime)
	var stalest, own *session // the least recently used session of all, and of this caller
	owned := 0
	for _, o := range s.all {
		if s.expired(o, now) {
			s.drop(o)
			continue
		}
		if stalest == nil || o.used.Before(stalest.used) {
			stalest = o
		}
		if o.caller.Token == caller.Token {
			owned++
			if own == nil || o.used.Before(own.used) {
				own = o
			}
		}
	}
	switch {
	case owned >= maxSessionsOf:
		s.drop(own)
	case len(s.all) >= maxSessions:
		s.drop(stalest)
	}
	s.all[n.id] = n
	return n, id, proof
}

// find returns the session with this id and proof, and marks it as used.
func (s *Sessions) find(id, proof string) (*session, bool) {
	sum, shown := hash(sha256.Sum256([]byte(id))), sha256.Sum256([]byte(proof))
	s.mu.Lock()
	defer s.mu.Unlock()
	found, now := s.all[sum], s.now()
	if found == nil || subtle.ConstantTimeCompare(found.proof[:], shown[:]) != 1 {
		return nil, false
	}
	if s.expired(found, now) {
		s.drop(found)
		return nil, false
	}
	found.used = now
	return found, true
}

func (*Sessions) expired(o *session, now time.Time) bool {
	return !now.Before(o.expires) || now.Sub(o.used) >= idleTime
}

func (s *Sessions) end(o *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(o)
}

// drop removes a session from the table. Callers hold mu.
func (s *Sessions) drop(o *session) {
	if s.all[o.id] == o {
		delete(s.all, o.id)
		close(o.ended)
	}
}
