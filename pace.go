package till

import (
	"net/http"
	"time"
)

// How slowly a body may arrive if it takes up memory until it is complete.
const (
	// bodyPause is the longest pause within it.
	bodyPause = 30 * time.Second
	// bodyPace is how much of it must arrive, in bytes a second, pauses excluded: what
	// the slowest mobile connections carry.
	bodyPace = 16 << 10
)

// pace ends a body that arrives too slowly: its next read fails because a deadline was
// exceeded. Without it, a few clients that stop in the middle of large bodies would
// occupy the memory that all share.
type pace struct {
	client     *http.ResponseController
	pause      time.Duration
	rate       int64
	began, set time.Time
}

// newPace returns nil, which does nothing, if the operator has set how long a request
// may take (timeouts, in the servers option): that deadline stays.
func newPace(w http.ResponseWriter, r *http.Request) *pace {
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && s.ReadTimeout > 0 {
		return nil
	}
	return &pace{client: http.NewResponseController(w), pause: bodyPause, rate: bodyPace}
}

// next is called before each read, after n bytes were read.
func (p *pace) next(n int) {
	if p == nil {
		return
	}
	now := time.Now()
	if p.began.IsZero() {
		p.began = now
	}
	if now.Sub(p.set) < p.pause/32 {
		return // the deadline would hardly move
	}
	p.set = now
	at := now.Add(p.pause)
	if whole := p.began.Add(p.pause + time.Duration(int64(n)/p.rate)*time.Second); whole.Before(at) {
		at = whole
	}
	_ = p.client.SetReadDeadline(at) // without support for deadlines, the client is waited for
}

// end removes the deadline: the body is complete, and the answer may take as long as it
// likes.
func (p *pace) end() {
	if p != nil {
		_ = p.client.SetReadDeadline(time.Time{})
	}
}
