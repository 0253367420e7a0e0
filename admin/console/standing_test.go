package console

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// office is a console with the management API itself behind it.
type office struct{ *admintest.World }

func (o office) Limiter() (*limiter.Limiter, error) { return o.World.Limiter, nil }

func (o office) ManagementAPI(caller limiter.Caller) http.Handler {
	return admin.NewHandler(admintest.Backend{Of: o.World}, caller, slog.New(slog.DiscardHandler))
}

// late is a body of which nothing comes before something else has happened.
type late struct {
	before func()
	body   io.Reader
}

func (l *late) Read(p []byte) (int, error) {
	if l.before != nil {
		l.before()
		l.before = nil
	}
	return l.body.Read(p)
}

// TestNothingIsDoneForATokenThatIsRevokedWhileItsCallArrives: who has a token may keep
// calls with it open, and finish them when it is revoked.
func TestNothingIsDoneForATokenThatIsRevokedWhileItsCallArrives(t *testing.T) {
	t.Parallel()
	for name, signsIn := range map[string]bool{"a token": false, "a session": true} {
		for path, body := range map[string]string{
			"/till/api/keys":   `{"upstream":"openai","max_activations":100}`,
			"/till/api/tokens": `{"name":"heir","role":"lead"}`,
		} {
			for _, once := range []string{"", "again"} {
				t.Run(name+path+once, func(t *testing.T) {
					t.Parallel()
					w := admintest.New(t, nil)
					if err := w.SetRoles(admintest.Team()); err != nil {
						t.Fatal(err)
					}
					secret, lookup, err := token.MintAdmin()
					if err != nil {
						t.Fatal(err)
					}
					made, err := w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "lead"})
					if err != nil {
						t.Fatal(err)
					}
					h := &Handler{
						Backend: office{w}, Sessions: NewSessions(nil), Log: slog.New(slog.DiscardHandler),
						Client: func(*http.Request) (netip.Addr, bool) { return netip.Addr{}, true },
					}
					r := httptest.NewRequest("POST", "https://till.example.com"+path, &late{body: strings.NewReader(body), before: func() {
						if _, err := w.RevokeToken(limiter.Operator, made.ID); err != nil {
							t.Error(err)
						}
					}})
					if once != "" {
						r.Header.Set("Idempotency-Key", once)
					}
					if signsIn {
						_, id, proof := h.Sessions.begin(limiter.Caller{Name: made.Name, Token: made.ID, Role: made.Role})
						r.AddCookie(&http.Cookie{Name: cookieName, Value: id.Reveal()})
						r.Header.Set(proofHeader, proof.Reveal())
						r.Header.Set("Origin", "https://till.example.com")
					} else {
						r.Header.Set("Authorization", "Bearer "+secret.Reveal())
					}
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					if rec.Code != http.StatusUnauthorized {
						t.Errorf("it is answered %d %s", rec.Code, rec.Body)
					}
					page, err := w.List(t.Context(), limiter.Operator, limiter.Filter{})
					tokens, failed := w.ListTokens(limiter.Operator)
					if err != nil || failed != nil || len(page.Keys) != 0 || len(tokens) != 1 || tokens[0].Status(w.Time()) != record.Revoked {
						t.Errorf("%v %v: there are %d keys, and the tokens %+v", err, failed, len(page.Keys), tokens)
					}
				})
			}
		}
	}
}
