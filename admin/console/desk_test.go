package console

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// desk is a console over a limiter on a real Badger directory. Its management API
// answers with the caller.
type desk struct {
	*limiter.Limiter
	t         *testing.T
	handler   *Handler
	log       strings.Builder
	encrypted bool

	mu    sync.Mutex
	now   time.Time
	until func(context.Context) // what a call of the API waits for
}

func (d *desk) clock() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *desk) advance(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = d.now.Add(by)
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	s, err := store.OpenBadger(filepath.Join(t.TempDir(), "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = 5 * time.Minute
	role := record.NewRole()
	role.Permissions = []record.Permission{record.KeysRead}
	l, err := limiter.Open(limiter.Options{Patience: 5 * time.Minute, Store: s, Roles: map[string]record.Role{"reader": role}})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{Limiter: l, t: t, now: time.Now()}
	d.handler = &Handler{
		Backend: backend{d}, Sessions: NewSessions(d.clock), Log: slog.New(slog.NewTextHandler(&d.log, nil)),
		Client: func(r *http.Request) (netip.Addr, bool) {
			at, err := netip.ParseAddrPort(r.RemoteAddr)
			if err != nil {
				return netip.Addr{}, d.encrypted
			}
			return at.Addr(), d.encrypted
		},
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

type backend struct{ d *desk }

func (b backend) Limiter() (*limiter.Limiter, error) { return b.d.Limiter, nil }

func (b backend) ManagementAPI(caller limiter.Caller) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.d.until != nil {
			b.d.until(r.Context())
		}
		write(w, http.StatusOK, map[string]any{
			"caller": caller.Name, "from": caller.From, "path": r.URL.Path, "session": caller.Session,
			"credentials": len(r.Header["Authorization"]) + len(r.Header["Cookie"]) + len(r.Header[proofHeader]),
		})
	})
}

// newToken makes an admin token.
func (d *desk) newToken(name, role string) (text string, id string) {
	d.t.Helper()
	secret, lookup, err := token.MintAdmin()
	if err != nil {
		d.t.Fatal(err)
	}
	made, err := d.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: name, Role: role})
	if err != nil {
		d.t.Fatal(err)
	}
	return secret.Reveal(), made.ID
}

const here = "127.0.0.1:8081"

// do makes a request as a browser on the console's own page does. header alternates
// names and values; an empty value removes the header.
func (d *desk) do(method, path, body string, header ...string) *http.Response {
	d.t.Helper()
	r := httptest.NewRequest(method, "http://"+here+path, strings.NewReader(body))
	r.RemoteAddr = "203.0.113.7:4711"
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		switch name, value := header[i], header[i+1]; {
		case value == "":
			r.Header.Del(name)
		case name == "Host":
			r.Host = value
		default:
			r.Header.Add(name, value)
		}
	}
	rec := httptest.NewRecorder()
	d.handler.ServeHTTP(rec, r)
	return rec.Result()
}

// signIn begins a session and returns its headers.
func (d *desk) signIn(body string) []string {
	d.t.Helper()
	res := d.do("POST", sessionPath, body)
	if res.StatusCode != http.StatusOK {
		d.t.Fatalf("signing in: %s %s", res.Status, read(d.t, res))
	}
	var who whoami
	if err := json.NewDecoder(res.Body).Decode(&who); err != nil || who.Proof == "" {
		d.t.Fatalf("%v, %+v", err, who)
	}
	cookies := res.Cookies()
	if len(cookies) != 1 {
		d.t.Fatal(cookies)
	}
	return []string{"Cookie", cookies[0].Name + "=" + cookies[0].Value, proofHeader, who.Proof}
}

func (d *desk) link(caller limiter.Caller) string {
	secret, _ := d.handler.Sessions.Link(caller)
	return `{"link":"` + secret.Reveal() + `"}`
}

func read(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (d *desk) status(want int, what string, res *http.Response) {
	d.t.Helper()
	if res.StatusCode != want {
		d.t.Errorf("%s: %d %s, want %d", what, res.StatusCode, read(d.t, res), want)
	}
}
