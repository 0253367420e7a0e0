package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/token"
)

// Endpoint is an address that messages go to, and the secrets that sign them.
type Endpoint struct {
	URL    string
	Events []event.Name // to send; all if empty

	plain   bool // http
	secrets atomic.Pointer[[]token.Secret]
}

const secretPrefix = "whsec_"

// NewEndpoint checks an address: details of keys may only travel encrypted. Its errors
// do not repeat the address, which may hold a token.
func NewEndpoint(address string) (*Endpoint, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("its address must be written https://host[:port]/path")
	}
	if u.User != nil || u.Fragment != "" {
		return nil, errors.New("its address must hold neither a user nor a fragment")
	}
	if u.Scheme == "http" && u.Hostname() != "localhost" {
		if addr, err := netip.ParseAddr(u.Hostname()); err != nil || !addr.IsLoopback() {
			return nil, fmt.Errorf("its address must be https, or http on loopback, got http://%s", u.Host)
		}
	}
	return &Endpoint{URL: address, plain: u.Scheme == "http"}, nil
}

// SetSecrets sets the secrets that messages are signed with from now on.
func (e *Endpoint) SetSecrets(texts []string) (changed bool, err error) {
	next := make([]token.Secret, len(texts))
	for i, text := range texts {
		if next[i], err = parseSecret(text); err != nil {
			return false, err
		}
	}
	if before := e.secrets.Load(); before != nil && slices.EqualFunc(*before, next, func(a, b token.Secret) bool { return a.Reveal() == b.Reveal() }) {
		return false, nil
	}
	e.secrets.Store(&next)
	return true, nil
}

// Secrets returns the secrets that messages are signed with.
func (e *Endpoint) Secrets() []token.Secret { return *e.secrets.Load() }

// parseSecret parses a secret. Its errors do not repeat it.
func parseSecret(text string) (token.Secret, error) {
	value := strings.TrimSpace(text)
	if err := token.CheckCredential(value); err != nil {
		return token.Secret{}, fmt.Errorf("secret %w", err)
	}
	if encoded, ok := strings.CutPrefix(value, secretPrefix); ok {
		b, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return token.Secret{}, fmt.Errorf("secret: after %s must follow base64, padded", secretPrefix)
		}
		value = string(b)
	}
	if value == "" {
		return token.Secret{}, errors.New("secret must not be empty")
	}
	return token.NewSecret(value), nil
}

// sign returns the Webhook-Signature of a message: one for each secret.
func (e *Endpoint) sign(id, stamp string, payload []byte) string {
	var all []string
	for _, secret := range e.Secrets() {
		mac := hmac.New(sha256.New, []byte(secret.Reveal()))
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(payload)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}

// client returns a client for this endpoint: it follows no redirects, has timeouts, and
// over plain HTTP it reaches no machine but this one.
func (e *Endpoint) client() *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext,
		TLSHandshakeTimeout: 5 * time.Second, ResponseHeaderTimeout: deliveryTime, IdleConnTimeout: time.Minute,
		MaxIdleConns: 1, MaxConnsPerHost: 1, ForceAttemptHTTP2: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
	}
	if e.plain {
		transport.Proxy = nil
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(address); err != nil || !at.Addr().Unmap().IsLoopback() {
				return errors.New("its address is neither https nor on loopback")
			}
			return nil
		}
	}
	return &http.Client{
		Transport: transport, Timeout: deliveryTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
