// Package webhook delivers events about keys to webhooks: signed as in Standard
// Webhooks (https://www.standardwebhooks.com), one message at a time to each, and
// retried for some days.
//
// It knows addresses, secrets and the state of deliveries. Which events exist and which
// messages wait is known to the limiter, whose outbox keeps them until they are
// delivered; the root reads the configuration of webhooks.
package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
)

const (
	deliveryTime   = 15 * time.Second // of one attempt, in total
	deliveryBatch  = 50
	maxAnswer      = 64 << 10 // bytes of an answer that are read, so that its connection can be reused
	lookAgain      = time.Minute
	lookAgainStore = time.Second

	// firstRetry is the wait after the first failure. It doubles with each further one,
	// up to longestRetry, and a message that is older than giveUp is given up once it
	// has failed, or once its webhook has been failing for as long.
	firstRetry, longestRetry, giveUp = 2 * time.Second, time.Hour, 3 * 24 * time.Hour
)

// retryAfter returns the wait after so many failures, with jitter, so that a receiver
// that comes back is not flooded.
func retryAfter(failures int) time.Duration {
	wait := longestRetry
	if failures < 30 {
		wait = min(firstRetry<<failures, longestRetry)
	}
	return wait/2 + time.Duration(rand.Int64N(int64(wait/2)+1))
}

// State is how the deliveries to an endpoint went since the server started.
type State struct {
	Delivered, Failed, GivenUp    int64
	LastDeliveredAt, FailingSince *time.Time
	LastError                     string
}

// Deliveries sends the messages in the outbox to the webhooks. It lives as long as the
// store is in use; the webhooks are those of the configuration that started last. Each
// has one goroutine, and therefore one message in transit.
type Deliveries struct {
	limiter func() *limiter.Limiter

	mu      sync.Mutex // guards changes of the other fields
	stopped bool
	senders atomic.Pointer[map[string]*sender] // by address; replaced, never changed
}

// New returns Deliveries that deliver nothing until Set names endpoints. current
// returns the limiter if it works, or nil.
func New(current func() *limiter.Limiter) *Deliveries {
	d := &Deliveries{limiter: current}
	d.senders.Store(new(map[string]*sender))
	return d
}

// sender is the goroutine of one webhook.
type sender struct {
	all    *Deliveries
	client *http.Client
	woken  chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	hook     *Endpoint
	log      *slog.Logger
	failures int // in a row
	pause    time.Time
	state    State
}

// Set replaces the webhooks with those of another configuration.
func (d *Deliveries) Set(hooks []*Endpoint, log *slog.Logger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	former, next := *d.senders.Load(), make(map[string]*sender, len(hooks))
	for _, h := range hooks {
		s := former[h.URL]
		if next[h.URL] = s; s == nil {
			ctx, cancel := context.WithCancel(context.Background())
			s = &sender{all: d, client: h.client(), woken: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), hook: h, log: log}
			next[h.URL] = s
			go s.run(ctx)
			continue
		}
		s.mu.Lock()
		s.hook, s.log = h, log
		s.mu.Unlock()
		s.wake()
	}
	for address, s := range former {
		if next[address] == nil {
			s.cancel()
			<-s.done
		}
	}
	d.senders.Store(&next)
}

// Stop ends all deliveries.
func (d *Deliveries) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, s := range *d.senders.Load() {
		s.cancel()
	}
	for _, s := range *d.senders.Load() {
		<-s.done
	}
}

// Wake makes all senders look into the outbox. It does not block.
func (d *Deliveries) Wake() {
	for _, s := range *d.senders.Load() {
		s.wake()
	}
}

// State returns how the deliveries to an address went.
func (d *Deliveries) State(address string) State {
	s := (*d.senders.Load())[address]
	if s == nil {
		return State{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *sender) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

func (s *sender) run(ctx context.Context) {
	defer close(s.done)
	defer s.client.CloseIdleConnections()
	for {
		timer := time.NewTimer(s.round(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.woken:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round delivers the due messages, and returns when to look again at the latest.
func (s *sender) round(ctx context.Context) time.Duration {
	s.mu.Lock()
	hook, log, pause := s.hook, s.log, time.Until(s.pause)
	s.mu.Unlock()
	if pause > 0 {
		return pause
	}
	l := s.all.limiter()
	if l == nil {
		return lookAgainStore
	}
	due, next, err := l.Outbox().Due(hook.URL, deliveryBatch)
	if err != nil {
		log.Error("reading the messages for webhooks", "error", err)
		return lookAgain
	}
	for _, m := range due {
		if ctx.Err() != nil {
			return 0
		}
		if s.hopeless(&m) {
			if err := l.Outbox().Forget(hook.URL, m); err != nil {
				return lookAgainStore
			}
			s.gaveUp(m)
			continue
		}
		if err := s.deliver(ctx, hook, &m); err != nil {
			if ctx.Err() != nil {
				return 0
			}
			if err := l.Outbox().Postpone(m, retryAfter(m.Attempts)); err != nil {
				log.Error("recording that a message to a webhook failed", "error", err)
			}
			return s.failed(err)
		}
		s.delivered()
		if err := l.Outbox().Forget(hook.URL, m); err != nil {
			// The message will be sent once more, with the same id.
			log.Error("recording that a message to a webhook was delivered", "message", m.ID, "error", err)
			return lookAgainStore
		}
	}
	switch {
	case len(due) == deliveryBatch:
		return 0
	case next == 0:
		return lookAgain
	}
	return min(next, lookAgain)
}

// hopeless reports whether a message is given up. One that is old only because the server
// was off is not.
func (s *sender) hopeless(m *event.Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.state.FailingSince
	return m.Age > giveUp && (m.Attempts > 0 || since != nil && time.Since(*since) >= giveUp)
}

func (s *sender) deliver(ctx context.Context, hook *Endpoint, m *event.Message) error {
	ctx, cancel := context.WithTimeout(ctx, deliveryTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(m.Payload))
	if err != nil {
		return withoutAddress(err)
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "till")
	r.Header.Set("Webhook-Id", m.ID)
	r.Header.Set("Webhook-Timestamp", stamp)
	r.Header.Set("Webhook-Signature", hook.sign(m.ID, stamp, m.Payload))
	res, err := s.client.Do(r)
	if err != nil {
		return withoutAddress(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)); err != nil && res.StatusCode/100 == 2 {
		return withoutAddress(err)
	}
	switch res.StatusCode / 100 {
	case 2:
		return nil
	case 3:
		return fmt.Errorf("it answered %d, and redirects are not followed", res.StatusCode)
	}
	return fmt.Errorf("it answered %d", res.StatusCode)
}

// withoutAddress removes the address from an error of net/http: its query may hold a
// token.
func withoutAddress(err error) error {
	if at, ok := errors.AsType[*url.Error](err); ok {
		return at.Err
	}
	return err
}

func (s *sender) delivered() {
	now := time.Now().UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.log.Info("a webhook accepts messages again", "host", s.host())
	}
	s.failures, s.pause = 0, time.Time{}
	s.state.Delivered++
	s.state.LastDeliveredAt, s.state.FailingSince, s.state.LastError = &now, nil, ""
}

func (s *sender) failed(err error) time.Duration {
	now := time.Now().UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == 0 {
		s.state.FailingSince = &now
		s.log.Warn("a message could not be delivered to a webhook; it is tried again for some days", "host", s.host(), "error", err)
	}
	wait := retryAfter(s.failures)
	s.failures++
	s.pause = now.Add(wait)
	s.state.Failed++
	s.state.LastError = err.Error()
	return wait
}

func (s *sender) gaveUp(m event.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.GivenUp++
	s.log.Error("a message could not be delivered to a webhook, and was given up", "host", s.host(), "event", string(m.Event), "message", m.ID, "attempts", m.Attempts)
}

// host is the part of the address that may be logged. The caller holds s.mu.
func (s *sender) host() string {
	u, err := url.Parse(s.hook.URL)
	if err != nil {
		return ""
	}
	return u.Host
}
