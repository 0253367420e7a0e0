package cli

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]struct{ base, origin string }{
		"unix//run/till.sock":               {"http://127.0.0.1/till", ""},
		"unix//run/till.sock|0600":          {"http://127.0.0.1/till", ""},
		"localhost:2019":                    {"http://localhost:2019/till", "http://localhost:2019"},
		":2019":                             {"http://localhost:2019/till", "http://localhost:2019"},
		"tcp/[::1]:2019":                    {"http://[::1]:2019/till", "http://[::1]:2019"},
		"http://127.0.0.1:2019":             {"http://127.0.0.1:2019/till", ""},
		"https://till.example.com/till/api": {"https://till.example.com/till/api", ""},
	} {
		c, err := newClient(address)
		if err != nil || c.base != want.base || c.origin != want.origin {
			t.Errorf("%s: %v, %+v", address, err, c)
		}
	}
	for _, address := range []string{"localhost", "ftp://x", "https://user:secret@x", "https://x/?token=secret", "http://"} {
		_, err := newClient(address)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestUnreachableAndForeignServersAreExplained(t *testing.T) {
	t.Parallel()
	r := till(t, "list", "--address", "unix/"+filepath.Join(t.TempDir(), "none"))
	if r.code != 1 || !strings.Contains(r.err, "no server answers at unix//") || !strings.Contains(r.err, "caddy till up") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	foreign := httptest.NewServer(http.NotFoundHandler())
	defer foreign.Close()
	r = till(t, "list", "--address", foreign.Listener.Addr().String())
	if r.code != 1 || !strings.Contains(r.err, "404 Not Found: is a Caddy with till running there?") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	chatty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer chatty.Close()
	r = till(t, "list", "--address", chatty.URL)
	if r.code != 1 || !strings.Contains(r.err, "is not from till") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}

func TestTheTokenIsSentAndFollowsNoRedirect(t *testing.T) {
	// Not parallel: it sets the environment.
	t.Setenv("TILL_TOKEN", "till_admin_0123456789")
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the redirect was followed, with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	var got, origin string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, origin = r.Header.Get("Authorization"), r.Header.Get("Origin")
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	r := till(t, "list", "--address", s.URL+"/till/api")
	if r.code != 1 || got != "Bearer till_admin_0123456789" {
		t.Errorf("exit %d, token %q: %s", r.code, got, r.err)
	}
	address := s.Listener.Addr().String()
	r = till(t, "list", "--address", address)
	if r.code != 1 || got != "" || origin != "http://"+address {
		t.Errorf("to an endpoint that asks for no token: exit %d, token %q, origin %q: %s", r.code, got, origin, r.err)
	}
}

// TestNoKeyIsPartOfAnAddress: addresses are logged, by servers and by proxies before them.
func TestNoKeyIsPartOfAnAddress(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) }))
	defer s.Close()
	for _, text := range []string{"till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2", "sk-till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2", "till_admin_2U2MJFLgRfT6CEV1PUVmmF453Jg2"} {
		for _, args := range [][]string{
			{"list", "--name", text}, {"list", "--owner", text}, {"list", "--label", "key=" + text}, {"list", "--q", text},
			{"prices", text}, {"nodes", "remove", text}, {"show", text}, {"audit", "--key", text},
		} {
			if r := till(t, append(args, "--address", s.URL)...); r.code != 2 || !strings.Contains(r.err, "string of a key or token") || strings.Contains(r.out+r.err, text) {
				t.Errorf("%q: exit %d: %s%s", args, r.code, r.out, r.err)
			}
		}
	}
}

func TestWhoMayNotUseTheSocketIsToldSo(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
	err := (&client{where: "unix//run/caddy/admin.sock"}).unreachable(fmt.Errorf("Get: %w", refused))
	if !strings.Contains(err.Error(), "unix//run/caddy/admin.sock") || !strings.Contains(err.Error(), "permission denied") || !strings.Contains(err.Error(), "sudo") || strings.Contains(err.Error(), "no server") {
		t.Errorf("it says: %v", err)
	}
}

func TestTheAddressIsFoundInTheEnvironmentThenAtTheSocketOfUp(t *testing.T) {
	// Not parallel: it sets the environment.
	w := newWorld(t)
	w.NewKey(`{"name":"here","upstream":"openai","max_activations":5}`)
	t.Setenv("TILL_ADDRESS", w.Serve())
	if r := till(t, "list"); !strings.Contains(r.out, "here") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	t.Setenv("TILL_ADDRESS", "")
	dir := t.TempDir()
	t.Setenv("TILL_DATA", dir)
	none := filepath.Join(dir, "none.sock")
	c, err := newClientBeside(none, "")
	if err != nil || c.where != caddy.DefaultAdminListen {
		t.Errorf("without up's socket it is %s, %v", c.where, err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err = newClientBeside(none, ""); err != nil || c.where != "unix/"+filepath.Join(dir, socketName) {
		t.Errorf("with up's socket it is %s, %v", c.where, err)
	}
}

// TestWhereTheServerIsUnlessSomebodySaysIt: with neither a flag nor TILL_ADDRESS.
func TestWhereTheServerIsUnlessSomebodySaysIt(t *testing.T) {
	// Not parallel: it sets the environment.
	t.Setenv("CADDY_ADMIN", "") // and put back at the end
	if err := os.Unsetenv("CADDY_ADMIN"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ofUp, ofUnit, none := filepath.Join(dir, "up.sock"), filepath.Join(dir, "unit.sock"), filepath.Join(dir, "none.sock")
	for _, path := range []string{ofUp, ofUnit} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	for _, test := range []struct{ ofUp, ofUnit, want string }{
		{ofUp, ofUnit, "unix/" + ofUp}, {none, ofUnit, "unix/" + ofUnit}, {"", ofUnit, "unix/" + ofUnit}, {none, none, caddy.DefaultAdminListen}, {"", "", caddy.DefaultAdminListen},
	} {
		if got := defaultAddress(test.ofUp, test.ofUnit); got != test.want {
			t.Errorf("with %q and %q it is %s, want %s", test.ofUp, test.ofUnit, got, test.want)
		}
	}
	// A server that was killed leaves its socket; one that has gone listens at a port now.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "dead.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if got := defaultAddress("", dead.Addr().String()); got != caddy.DefaultAdminListen {
		t.Errorf("with a socket that nobody listens at it is %s", got)
	}
	t.Setenv("CADDY_ADMIN", "localhost:2020") // Caddy read it before, so its own default stays
	if got := defaultAddress(none, ofUnit); got != caddy.DefaultAdminListen {
		t.Errorf("where CADDY_ADMIN says where it is, it is %s", got)
	}

	if linux, windows := packagedSocket("linux"), packagedSocket("windows"); linux != "/run/caddy/admin.sock" || windows != "" {
		t.Errorf("the unit's socket is %q on Linux, and %q on Windows, where anybody can make that directory", linux, windows)
	}

	// Without a home, Caddy's data directory is below the present one.
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "TILL_DATA", "TILL_ADDRESS"} {
		t.Setenv(name, "")
	}
	t.Chdir(dir)
	if err := os.MkdirAll("caddy/till", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join("caddy", "till", socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := newClientBeside(none, ""); err != nil || c.where != caddy.DefaultAdminListen {
		t.Errorf("in a directory of somebody else it is %s, %v", c.where, err)
	}
}

// TestATokenThatIsNotUsedIsNoOperator: a caller with a token who forgot the address
// does nothing as the operator, and one who names an endpoint that asks for no
// token is warned.
func TestATokenThatIsNotUsedIsNoOperator(t *testing.T) {
	// Not parallel: it sets the environment.
	w := newWorld(t)
	t.Setenv("TILL_TOKEN", "till_admin_0123456789")
	t.Setenv("TILL_ADDRESS", "")
	t.Setenv("TILL_DATA", t.TempDir())
	for path, cmd := range tree() {
		if path == "" || cmd.HasSubCommands() || path == "up" || path == "restore" || path == "migrate" || path == "leak" || path == "completion" {
			continue
		}
		args := append(strings.Fields(path), needed[path]...)
		if r := till(t, args...); r.code == 2 && strings.Contains(r.err, "name ") { // it wants an argument
			args = append(args, "x")
		}
		want := 2
		if path == runName {
			want = exitRun
		}
		if r := till(t, args...); r.code != want || !strings.Contains(r.err, "set TILL_ADDRESS=") {
			t.Errorf("%s: exit %d: %s%s", path, r.code, r.out, r.err)
		}
	}
	at := w.Serve()
	if r := till(t, "list", "--address", at); r.code != 0 || strings.Count(r.err, "TILL_TOKEN is not used at "+at) != 1 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	site := httptest.NewServer(http.StripPrefix("/till/api", w.Handler))
	defer site.Close()
	if r := till(t, "list", "--address", site.URL+"/till/api"); r.code != 0 || r.err != "" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}
