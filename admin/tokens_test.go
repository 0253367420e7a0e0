package admin

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// as returns the world with the holder of the token as the caller.
func (w *world) as(token string) *world {
	w.T.Helper()
	next := *w.World
	h := described(w.T, authenticated(admintest.Backend{Of: w.World}, func(*http.Request) string { return "192.0.2.1" }, slog.New(slog.DiscardHandler)))
	next.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		h.ServeHTTP(rw, r)
	})
	return &world{&next}
}

// authenticated serves the management API to callers with an admin token, as the
// console does.
func authenticated(b Backend, from func(*http.Request) string, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		door := &api{backend: b, log: log}
		l, err := b.Limiter()
		if err != nil {
			door.fail(w, &apiError{http.StatusServiceUnavailable, "store_unavailable", err.Error()})
			return
		}
		scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if len(r.Header.Values("Authorization")) != 1 || !strings.EqualFold(scheme, "bearer") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="till"`)
			door.fail(w, &apiError{http.StatusUnauthorized, "unauthorized", "send an admin token: Authorization: Bearer till_admin_…"})
			return
		}
		caller, err := l.Authenticate(strings.TrimSpace(text), from(r))
		if err != nil {
			door.fail(w, err)
			return
		}
		NewHandler(b, caller, log).ServeHTTP(w, r)
	})
}

// newTeam makes a world with roles.
func newTeam(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if err := w.SetRoles(admintest.Team()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) newToken(name, role string) *wire.TokenObject {
	w.T.Helper()
	made := admintest.Get[wire.TokenObject](w.T, w.Do("POST", "/tokens", `{"name":"`+name+`","role":"`+role+`","expires_in":"90d"}`))
	return &made
}

func TestATokenOpensTheAPIWithinItsRole(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	anna := w.newToken("anna", "member")
	if !strings.HasPrefix(anna.Token, "till_admin_") || anna.Status != record.Active || anna.ExpiresAt == nil {
		t.Fatalf("made %+v", anna)
	}
	as := w.as(anna.Token)
	k := as.NewKey(`{"upstream":"openai","name":"x"}`)
	if k.CreatedBy != "anna" || k.Role != "member" || k.MaxActivations == nil || *k.MaxActivations != 100 || len(k.Models) != 1 {
		t.Errorf("what is left out takes the ceiling: got %+v", k.KeyObject)
	}
	for body, field := range map[string]string{
		`{"upstream":"openai","max_activations":101}`:                          "max_activations",
		`{"upstream":"openai","max_activations":1,"models":["o3"]}`:            "models",
		`{"upstream":"openai","max_activations":1,"renews":"day"}`:             "renews",
		`{"upstream":"openai","max_activations":1,"models":["*"]}`:             "models",
		`{"upstream":"openai","max_activations":1,"role":"lead"}`:              "role lead",
		`{"upstream":"openai","max_activations":1,"role":"*"}`:                 "role",
		`{"upstream":"openai","max_activations":1,"models":["gpt-5","gpt*"]}`:  "models",
		`{"upstream":"openai","unlimited":true,"max_activations":99999999999}`: "max_activations",
	} {
		a := as.Do("POST", "/keys", body)
		code, message := a.Fault(t)
		if a.Status != 403 || code != "above_ceiling" && code != "forbidden" || !strings.Contains(message, strings.Fields(field)[0]) {
			t.Errorf("%s: %d %s %s", body, a.Status, code, message)
		}
	}
	if a := as.Do("POST", "/keys/"+k.ID+"/revoke", ""); a.Status != 403 {
		t.Errorf("without keys:revoke: %d %s", a.Status, a.Body)
	}
	foreign := w.NewKey(`{"upstream":"openai","max_activations":1}`)
	if a := as.Do("GET", "/keys/"+foreign.ID, ""); a.Status != 404 {
		t.Errorf("the key of another: %d %s", a.Status, a.Body)
	}
	if list := admintest.Get[wire.Listed](t, as.Do("GET", "/keys", "")); len(list.Keys) != 1 || list.Keys[0].ID != k.ID {
		t.Errorf("the list has %d keys", len(list.Keys))
	}
	if a := w.Do("POST", "/tokens/"+anna.ID+"/revoke", ""); a.Status != 200 {
		t.Fatal(a.Body)
	}
	if a := as.Do("GET", "/keys", ""); a.Status != 401 || a.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("with a revoked token: %d %s", a.Status, a.Body)
	}
	if a := w.as("").Do("GET", "/keys", ""); a.Status != 401 {
		t.Errorf("without a token: %d %s", a.Status, a.Body)
	}
	var limited admintest.Answer
	for range 30 {
		limited = w.as("till_admin_x").Do("GET", "/keys", "")
	}
	if limited.Status != 429 || limited.Header.Get("Retry-After") == "" {
		t.Errorf("after 30 unknown tokens: %d %s", limited.Status, limited.Body)
	}
}

func TestRolesAreShownAsConfigured(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	a := w.as(w.newToken("anna", "member").Token).Do("GET", "/roles", "")
	admintest.Equal(t, "roles", a.Body, `{"roles":[{"name":"ci","permissions":[],"sees":"own"},`+
		`{"name":"lead","permissions":["keys:create","keys:read","tokens:manage","keys:update"],"sees":"role","models":["gpt-*"],"max_activations":100},`+
		`{"name":"member","permissions":["keys:create","keys:read"],"sees":"own","models":["gpt-*"],"max_activations":100}]}`+"\n")
}

func TestTheEndOfATokenNamesThoseThatWereMadeWithIt(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	anna := w.newToken("anna", "lead")
	ben := admintest.Get[wire.TokenObject](t, w.as(anna.Token).Do("POST", "/tokens", `{"name":"ben","role":"member"}`))
	want := []wire.MadeToken{{ID: ben.ID, Name: "ben"}}
	for _, body := range []string{`{"dry_run":true,"text":"` + anna.Token + `"}`, `{"text":"` + anna.Token + `"}`} {
		found := admintest.Get[wire.LeaksAnswer](t, w.Do("POST", "/leaks", body))
		if len(found.Matches) != 1 || !slices.Equal(found.Made, want) {
			t.Errorf("%s: %+v", body, found.Matches)
		}
	}
	if done := admintest.Get[wire.TokenObject](t, w.Do("POST", "/tokens/"+anna.ID+"/revoke", "")); !slices.Equal(done.Made, want) {
		t.Errorf("revoked: %+v", done)
	}
	a := w.Do("POST", "/tokens/"+ben.ID+"/revoke", "")
	if strings.Contains(a.Body, "made_tokens") {
		t.Errorf("who made none: %s", a.Body)
	}
	if a := w.Do("POST", "/tokens/"+anna.ID+"/revoke", ""); strings.Contains(a.Body, "made_tokens") {
		t.Errorf("once those have ended, too: %s", a.Body)
	}
}
