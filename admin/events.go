package admin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
)

const (
	// feedBeat is the time between two signs of life on a feed without events. At
	// each of them the caller's permission is checked again, and whether the process
	// is to end.
	feedBeat = 5 * time.Second
	// feedPatience bounds how long a reader may take to receive an event.
	feedPatience = 10 * time.Second
)

// events streams, as server-sent events, what happens from now on to the keys that
// the caller sees.
func (a *api) events(l *limiter.Limiter, w http.ResponseWriter, r *http.Request) {
	feed, err := l.Subscribe(a.caller)
	if err != nil {
		if errors.Is(err, event.ErrFeeds) {
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
		// If the writer has no deadlines, the feed itself drops a slow reader.
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
		if caddy.Exiting() { // feeds that began earlier have been ended; the process waits for this one
			err = event.ErrFeedClosed
			break
		}
		var e *event.Event
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
		return // the reader has gone
	}
	a.log.Debug("a feed of events has ended", "by", a.caller.Name, "reason", err)
	if end := send("event: end\ndata: {\"reason\":%q}\n\n", err.Error()); end != nil {
		a.log.Debug("ending a feed of events", "error", end)
	}
}
