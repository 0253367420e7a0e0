package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/till-proxy/till/limiter"
)

const (
	// feedBeat lies between two signs of life on a feed without events, at which
	// the caller's right is judged again.
	feedBeat = 5 * time.Second
	// feedPatience bounds how long a reader may take to take an event.
	feedPatience = 10 * time.Second
)

// events answers with what happens from now on to the keys that the caller
// sees, as server-sent events.
func (a *api) events(w http.ResponseWriter, r *http.Request) {
	l, err := a.backend.Limiter()
	if err != nil {
		a.fail(w, &apiError{http.StatusServiceUnavailable, "store_unavailable", err.Error()})
		return
	}
	feed, err := l.Subscribe(a.caller)
	if err != nil {
		if errors.Is(err, limiter.ErrFeeds) {
			w.Header().Set("Retry-After", "10")
			err = &apiError{http.StatusTooManyRequests, "too_many_feeds", err.Error()}
		}
		a.fail(w, err)
		return
	}
	defer feed.Close()
	announce(w, "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	send := func(format string, args ...any) error {
		// Where the writer has no deadlines, a slow reader is dropped by the feed.
		if err := out.SetWriteDeadline(time.Now().Add(feedPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return out.Flush()
	}
	err = send(": these are the events from now on\n\n")
	for err == nil {
		var e *limiter.Event
		if e, err = feed.Next(r.Context(), feedBeat); err != nil {
			break
		}
		if e == nil {
			err = send(":\n\n")
			continue
		}
		var body []byte
		if body, err = e.JSON(); err == nil {
			err = send("event: %s\ndata: %s\n\n", e.Name, body)
		}
	}
	if r.Context().Err() != nil {
		return // nobody is there any more
	}
	a.log.Debug("a feed of events has ended", "by", a.caller.Name, "reason", err)
	if end := send("event: end\ndata: {\"reason\":%q}\n\n", err.Error()); end != nil {
		a.log.Debug("ending a feed of events", "error", end)
	}
}
