package cli

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

func TestTokensOnTheCommandLine(t *testing.T) {
	t.Setenv("TILL_ADDRESS", "")
	w := newWorld(t)
	if err := w.SetRoles(admintest.Team()); err != nil {
		t.Fatal(err)
	}
	address := w.Serve()
	made := till(t, "token", "create", "anna", "--role", "member", "--expires-in", "90d", "--address", address)
	if made.code != 0 || !strings.HasPrefix(made.out, "till_admin_") {
		t.Fatalf("%+v", made)
	}
	text, _, _ := strings.Cut(made.out, "\n")
	list := till(t, "token", "list", "--address", address)
	if list.code != 0 || !strings.Contains(list.out, "anna") || strings.Contains(list.out, text) {
		t.Errorf("%+v", list)
	}
	fits(t, made.out+list.out)
	if r := till(t, "token", "create", "anna", "--role", "member", "--address", address); r.code != 1 || !strings.Contains(r.err, "no other token has") {
		t.Errorf("the same name twice: %+v", r)
	}
	if r := till(t, "token", "create", "--address", address); r.code != 2 {
		t.Errorf("without a role: %+v", r)
	}
	if r := till(t, "token", "create", "max", "--role", "boss", "--address", address); r.code != 1 || !strings.Contains(r.err, "member") {
		t.Errorf("a role that is not there: %+v", r)
	}
	// The same command line, over the API with a token.
	site := httptest.NewServer(http.StripPrefix("/till/api", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		caller, err := w.Authenticate(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), "192.0.2.1")
		if err != nil {
			t.Error(err)
		}
		admin.NewHandler(admintest.Backend{Of: w.World}, caller, slog.New(slog.DiscardHandler)).ServeHTTP(rw, r)
	})))
	t.Cleanup(site.Close)
	t.Setenv("TILL_TOKEN", text)
	if r := till(t, "create", "--upstream", "openai", "--max-activations", "5", "--address", site.URL+"/till/api"); r.code != 0 {
		t.Errorf("minting with a token: %+v", r)
	}
	if r := till(t, "token", "list", "--address", site.URL+"/till/api"); r.code != 1 || !strings.Contains(r.err, "tokens:manage") {
		t.Errorf("without tokens:manage: %+v", r)
	}
	t.Setenv("TILL_TOKEN", "")
	if r := till(t, "token", "revoke", "anna", "--address", address); r.code != 0 || !strings.Contains(r.out, "revoked") {
		t.Errorf("%+v", r)
	}
	if r := till(t, "token", "revoke", text, "--address", address); r.code != 2 || strings.Contains(r.err, text) {
		t.Errorf("a string where a name belongs: %+v", r)
	}
}

func TestATokenNamedLikeTheIDOfAnotherDoesNotTakeItsPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.Serve()
	leaked := w.NewToken("leaked")
	w.NewToken(leaked.ID) // the newer of the two
	if r := till(t, "token", "revoke", leaked.ID, "--address", address); r.code != 0 || !strings.Contains(r.out, "of leaked is revoked") {
		t.Errorf("%+v", r)
	}
}

// TestTheCommandsSayWhichTokensWereMadeWithOneThatEnds: nothing ends them.
func TestTheCommandsSayWhichTokensWereMadeWithOneThatEnds(t *testing.T) {
	t.Setenv("TILL_ADDRESS", "")
	w := newWorld(t)
	if err := w.SetRoles(admintest.Team()); err != nil {
		t.Fatal(err)
	}
	address := w.Serve()
	secret, lookup, err := token.MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	anna, err := w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "lead"})
	if err != nil {
		t.Fatal(err)
	}
	_, lookup, err = token.MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	by := limiter.Caller{Name: anna.Name, Token: anna.ID, Role: anna.Role}
	ben, err := w.CreateToken(by, limiter.TokenSpec{Lookup: lookup, Name: "ben-" + strings.Repeat("x", 90), Role: "member"})
	if err != nil {
		t.Fatal(err)
	}
	list := till(t, "token", "list", "--address", address)
	fits(t, list.out)
	if head, _, _ := strings.Cut(list.out, "\n"); !strings.Contains(head, "CREATED BY") || !strings.Contains(list.out, ben.ID) {
		t.Errorf("%s", list.out)
	}
	path := filepath.Join(t.TempDir(), "leaked")
	if err := os.WriteFile(path, []byte(secret.Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range [][]string{{"leak", path, "--dry-run"}, {"leak", path}, {"token", "revoke", "anna"}} {
		got := till(t, append(line, "--address", address)...)
		if got.code != 0 || !strings.Contains(got.out, "still work") || !strings.Contains(got.out, "caddy till token revoke "+ben.ID) {
			t.Errorf("%s: %+v", line, got)
		}
		if got := till(t, append(line, "--json", "--address", address)...); !strings.Contains(got.out, `"made_tokens"`) {
			t.Errorf("%s as JSON: %+v", line, got)
		}
	}
	if got := till(t, "token", "revoke", ben.ID, "--address", address); got.code != 0 || strings.Contains(got.out, "still work") {
		t.Errorf("who made none: %+v", got)
	}
}
