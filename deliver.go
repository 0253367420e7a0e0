package till

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/limiter"
)

// retries say how often a message is tried: after a failure the wait doubles,
// from first to most, and a message that is older than giveUp is given up.
type retries struct{ first, most, giveUp time.Duration }

var standardRetries = retries{first: 2 * time.Second, most: time.Hour, giveUp: 3 * 24 * time.Hour}

const (
	deliveryTime   = 15 * time.Second // of one attempt, in all
	deliveryBatch  = 50
	maxHookAnswer  = 64 << 10 // bytes of an answer that are read, so that its connection can be used again
	lookAgain      = time.Minute
	lookAgainStore = time.Second
)

// after is the wait after so many failures, with a jitter, so that receivers
// that come back are not met by everybody at once.
func (r retries) after(failures int) time.Duration {
	wait := r.most
	if failures < 30 {
		wait = min(r.first<<failures, r.most)
	}
	return wait/2 + time.Duration(rand.Int64N(int64(wait/2)+1))
}

// deliveries sends what is in the outbox to the webhooks. It lives with the
// store, and which webhooks there are is said by the configuration that started
// last. There is one goroutine a webhook, and so one message on its way to each.
type deliveries struct {
	limiter func() *limiter.Limiter // the one that works now, or nil
	retries retries

	mu      sync.Mutex
	senders map[string]*sender // by address; replaced, never changed
	stopped bool
	all     atomic.Pointer[map[string]*sender] // the same, for who must not wait
}

func newDeliveries(current func() *limiter.Limiter) *deliveries {
	return &deliveries{limiter: current, retries: standardRetries}
}

// sender is the goroutine of one webhook.
type sender struct {
	all    *deliveries
	client *http.Client
	woken  chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	hook     *webhook
	log      *slog.Logger
	failures int // in a row
	pause    time.Time
	state    admin.Delivery
}

// set takes over the webhooks of a configuration.
func (d *deliveries) set(hooks []*webhook, log *slog.Logger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	next := make(map[string]*sender, len(hooks))
	for _, h := range hooks {
		s := d.senders[h.url]
		if next[h.url] = s; s == nil {
			ctx, cancel := context.WithCancel(context.Background())
			s = &sender{all: d, client: hookClient(h.plain), woken: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), hook: h, log: log}
			next[h.url] = s
			go s.run(ctx)
			continue
		}
		s.mu.Lock()
		s.hook, s.log = h, log
		s.mu.Unlock()
		s.wake()
	}
	for address, s := range d.senders {
		if next[address] == nil {
			s.cancel()
			<-s.done
		}
	}
	d.senders = next
	d.all.Store(&next)
}

// stop ends all of them.
func (d *deliveries) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, s := range d.senders {
		s.cancel()
	}
	for _, s := range d.senders {
		<-s.done
	}
}

// wake lets all look into the outbox. It does not block.
func (d *deliveries) wake() {
	if all := d.all.Load(); all != nil {
		for _, s := range *all {
			s.wake()
		}
	}
}

// delivery is how the deliveries to a webhook go.
func (d *deliveries) delivery(address string) admin.Delivery {
	var s *sender
	if all := d.all.Load(); all != nil {
		s = (*all)[address]
	}
	if s == nil {
		return admin.Delivery{}
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

// round delivers what is due and returns when to look again, at the latest.
func (s *sender) round(ctx context.Context) time.Duration {
	s.mu.Lock()
	hook, pause := s.hook, time.Until(s.pause)
	s.mu.Unlock()
	if pause > 0 {
		return pause
	}
	l := s.all.limiter()
	if l == nil {
		return lookAgainStore
	}
	due, next, err := l.DueMessages(ctx, hook.url, deliveryBatch)
	if err != nil {
		s.log.Error("reading what webhooks are to be told", "error", err)
		return lookAgain
	}
	for _, m := range due {
		if ctx.Err() != nil {
			return 0
		}
		if time.Since(m.At) > s.all.retries.giveUp {
			if err := l.ForgetMessage(ctx, hook.url, m); err != nil {
				return lookAgainStore
			}
			s.gaveUp(m)
			continue
		}
		if err := s.deliver(ctx, hook, &m); err != nil {
			if ctx.Err() != nil {
				return 0
			}
			if err := l.PostponeMessage(ctx, m, s.all.retries.after(m.Attempts)); err != nil {
				s.log.Error("noting that a webhook was not told", "error", err)
			}
			return s.failed(err)
		}
		s.delivered()
		if err := l.ForgetMessage(ctx, hook.url, m); err != nil {
			// It will be told once more, with the same id.
			s.log.Error("noting that a webhook was told", "message", m.ID, "error", err)
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

// deliver makes one attempt.
func (s *sender) deliver(ctx context.Context, hook *webhook, m *limiter.Message) error {
	ctx, cancel := context.WithTimeout(ctx, deliveryTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.url, bytes.NewReader(m.Payload))
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
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxHookAnswer)); err != nil && res.StatusCode/100 == 2 {
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

// sign is the Webhook-Signature of a message: one for each secret.
func (h *webhook) sign(id, stamp string, payload []byte) string {
	var all []string
	for _, secret := range *h.secrets.Load() {
		mac := hmac.New(sha256.New, []byte(secret.Reveal()))
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(payload)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}

// withoutAddress takes the address out of an error of net/http: its query may
// hold a token.
func withoutAddress(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func (s *sender) delivered() {
	now := time.Now().UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.log.Info("a webhook takes what it is told again", "host", s.host())
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
		s.log.Warn("a webhook could not be told what happened; it is tried again for some days", "host", s.host(), "error", err)
	}
	wait := s.all.retries.after(s.failures)
	s.failures++
	s.pause = now.Add(wait)
	s.state.Failed++
	s.state.LastError = err.Error()
	return wait
}

func (s *sender) gaveUp(m limiter.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.GivenUp++
	s.log.Error("a webhook was not told what happened, and that is given up", "host", s.host(), "event", string(m.Event), "message", m.ID, "attempts", m.Attempts)
}

// host is what logs say of the address. Callers hold the sender.
func (s *sender) host() string {
	u, err := url.Parse(s.hook.url)
	if err != nil {
		return ""
	}
	return u.Host
}

// hookClient is the client for one webhook: no redirects, bounded times, and
// over plain HTTP no other machine than this one.
func hookClient(plain bool) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext,
		TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: deliveryTime, IdleConnTimeout: time.Minute,
		MaxIdleConns: 1, MaxConnsPerHost: 1, ForceAttemptHTTP2: true, DisableCompression: true, MaxResponseHeaderBytes: maxHookAnswer,
	}
	if plain {
		transport.Proxy = nil
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(address); err != nil || !at.Addr().Unmap().IsLoopback() {
				return errors.New("it is not on loopback, and its address is not https")
			}
			return nil
		}
	}
	return &http.Client{
		Transport: transport, Timeout: deliveryTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
