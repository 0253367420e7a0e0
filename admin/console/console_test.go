package console

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

func TestABearerTokenIsServedWithItsOwnCallerAndNoCredentialGoesOn(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, id := d.newToken("anna", "reader")
	res := d.do("GET", "/till/api/keys/x", "", "Authorization", "bearer "+text, "Sec-Fetch-Site", "cross-site", "Origin", "https://elsewhere.example", "Host", "till.example.com")
	if got := read(t, res); got != `{"caller":"anna","credentials":0,"from":"203.0.113.7","path":"/keys/x","session":false}`+"\n" {
		t.Error(got)
	}
	for name, header := range map[string][]string{
		"nothing":       {},
		"two":           {"Authorization", "Bearer " + text, "Authorization", "Bearer " + text},
		"another kind":  {"Authorization", "Basic " + text},
		"a wrong one":   {"Authorization", "Bearer " + text[:len(text)-1] + string(text[len(text)-1]^1)},
		"an empty one":  {"Authorization", "Bearer "},
		"a scoped key":  {"Authorization", "Bearer till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2"},
		"as a cookie":   {"Cookie", "till=" + text},
		"in the header": {proofHeader, text},
	} {
		res := d.do("GET", "/till/api/keys", "", header...)
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %s %v", name, res.Status, res.Header)
		}
		if body := read(t, res); !strings.Contains(body, `"error":{"code":"unauthorized"`) || strings.Contains(body, text) {
			t.Errorf("%s: %s", name, body)
		}
	}
	if _, err := d.RevokeToken(limiter.Operator, id); err != nil {
		t.Fatal(err)
	}
	d.status(http.StatusUnauthorized, "a revoked token", d.do("GET", "/till/api/keys", "", "Authorization", "Bearer "+text))
}

func TestASessionNeedsItsCookieAndItsProofFromItsOwnOrigin(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, _ := d.newToken("anna", "reader")
	session := d.signIn(`{"token":"` + text + `"}`)
	if got := read(t, d.do("POST", "/till/api/keys", "{}", session...)); !strings.Contains(got, `"caller":"anna","credentials":0,"from":"203.0.113.7"`) || !strings.Contains(got, `"session":true`) {
		t.Fatal(got)
	}
	other := d.signIn(`{"token":"` + text + `"}`)
	with := func(more ...string) []string { return append(append([]string{}, session...), more...) }
	for name, test := range map[string]struct {
		status int
		header []string
	}{
		"the cookie alone":             {401, session[:2]},
		"the proof alone":              {401, session[2:]},
		"another session's proof":      {401, append(append([]string{}, session[:2]...), other[2:]...)},
		"two cookies of the name":      {401, append([]string{"Cookie", "till=other"}, session...)},
		"from another site":            {403, with("Sec-Fetch-Site", "", "Sec-Fetch-Site", "cross-site")},
		"from another port":            {403, with("Sec-Fetch-Site", "", "Sec-Fetch-Site", "same-site")},
		"typed by hand":                {403, with("Sec-Fetch-Site", "", "Sec-Fetch-Site", "none")},
		"two opinions":                 {403, with("Sec-Fetch-Site", "cross-site")},
		"another origin":               {403, with("Origin", "https://elsewhere.example")},
		"another port's origin":        {403, with("Origin", "http://127.0.0.1:3000")},
		"another scheme's origin":      {403, with("Origin", "https://"+here)},
		"no origin":                    {403, with("Origin", "null")},
		"a browser that says nothing":  {403, with("Sec-Fetch-Site", "")},
		"a name of another site":       {403, with("Host", "rebound.example:8081")},
		"a name that begins like ours": {403, with("Host", "127.0.0.1.nip.example:8081")},
		"its own origin":               {200, with("Origin", "http://"+here)},
		"an old browser":               {200, with("Sec-Fetch-Site", "", "Origin", "http://"+here)},
	} {
		d.status(test.status, name, d.do("POST", "/till/api/keys", "{}", test.header...))
	}
	d.status(http.StatusNoContent, "asking without a session", d.do("GET", sessionPath, ""))
	d.status(http.StatusForbidden, "asking from elsewhere", d.do("GET", sessionPath, "", with("Sec-Fetch-Site", "cross-site")...))
	d.status(http.StatusNoContent, "signing out", d.do("DELETE", sessionPath, "", session...))
	d.status(http.StatusUnauthorized, "after that", d.do("GET", "/till/api/keys", "", session...))
	d.status(http.StatusOK, "the other session", d.do("GET", "/till/api/keys", "", other...))
}

func TestSigningInAgainEndsTheFormerSessionOfTheBrowser(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, _ := d.newToken("anna", "reader")
	sign := `{"token":"` + text + `"}`
	session, other := d.signIn(sign), d.signIn(sign)
	still := func(want int, what string, session []string) {
		t.Helper()
		d.status(want, what, d.do("GET", "/till/api/keys", "", session...))
	}
	d.status(http.StatusUnauthorized, "a link of nobody's", d.do("POST", sessionPath, `{"link":"invented"}`, session...))
	d.status(http.StatusUnauthorized, "a token of nobody's", d.do("POST", sessionPath, `{"token":"till_admin_0000000000000000000000000000"}`, session...))
	still(http.StatusOK, "after those", session)
	d.status(http.StatusOK, "without the proof", d.do("POST", sessionPath, sign, session[:2]...))
	still(http.StatusOK, "after that", session)
	d.status(http.StatusOK, "signing in again", d.do("POST", sessionPath, sign, session...))
	still(http.StatusUnauthorized, "the former session", session)
	still(http.StatusOK, "another browser's", other)
}

func TestSessionsEndWithTimeTokenAndRoom(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, id := d.newToken("anna", "reader")
	sign := `{"token":"` + text + `"}`
	idle, busy := d.signIn(sign), d.signIn(sign)
	for range 23 {
		d.advance(30 * time.Minute)
		d.status(http.StatusOK, "one that is used", d.do("GET", "/till/api/keys", "", busy...))
	}
	d.status(http.StatusUnauthorized, "an idle one", d.do("GET", "/till/api/keys", "", idle...))
	d.advance(30 * time.Minute)
	d.status(http.StatusUnauthorized, "one of twelve hours", d.do("GET", "/till/api/keys", "", busy...))

	first := d.signIn(sign)
	for range maxSessionsOf {
		d.advance(time.Millisecond)
		d.signIn(sign)
	}
	if n := len(d.handler.Sessions.all); n != maxSessionsOf {
		t.Errorf("there are %d sessions, want at most %d", n, maxSessionsOf)
	}
	d.status(http.StatusUnauthorized, "the one used longest ago", d.do("GET", "/till/api/keys", "", first...))

	session := d.signIn(sign)
	if _, err := d.RevokeToken(limiter.Operator, id); err != nil {
		t.Fatal(err)
	}
	d.status(http.StatusUnauthorized, "one whose token was revoked", d.do("GET", "/till/api/keys", "", session...))
	d.status(http.StatusUnauthorized, "signing in with it", d.do("POST", sessionPath, sign))
}

func TestACallThatLastsEndsWithItsSession(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	session := d.signIn(d.link(limiter.Operator))
	started, ended := make(chan struct{}), make(chan struct{})
	d.until = func(ctx context.Context) {
		close(started)
		<-ctx.Done()
		close(ended)
	}
	go d.do("GET", "/till/api/events", "", session...)
	<-started
	d.status(http.StatusNoContent, "signing out", d.do("DELETE", sessionPath, "", session...))
	select {
	case <-ended:
	case <-time.After(5 * time.Minute):
		t.Fatal("it goes on")
	}
}

// TestACallThatLastsEndsWithItsToken: an export or a backup may take hours.
func TestACallThatLastsEndsWithItsToken(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.handler.recheck = time.Millisecond
	text, id := d.newToken("anna", "reader")
	started, ended := make(chan struct{}), make(chan struct{})
	d.until = func(ctx context.Context) {
		close(started)
		<-ctx.Done()
		close(ended)
	}
	go d.do("GET", "/till/api/backup", "", "Authorization", "Bearer "+text)
	<-started
	if _, err := d.RevokeToken(limiter.Operator, id); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Minute):
		t.Fatal("it goes on")
	}
}

func TestALinkSignsInOnceAndForTenMinutes(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	link := d.link(limiter.Operator)
	var wg sync.WaitGroup
	in := make(chan int, 20)
	for range 20 {
		wg.Go(func() { in <- d.do("POST", sessionPath, link).StatusCode })
	}
	wg.Wait()
	close(in)
	var opened int
	for status := range in {
		if status == http.StatusOK {
			opened++
		} else if status != http.StatusUnauthorized {
			t.Errorf("status %d", status)
		}
	}
	if opened != 1 {
		t.Errorf("one link signed in %d times", opened)
	}
	late := d.link(limiter.Operator)
	d.advance(linkTime)
	d.status(http.StatusUnauthorized, "a link of ten minutes ago", d.do("POST", sessionPath, late))
	oldest := d.link(limiter.Operator)
	for range maxLinks {
		d.advance(time.Second)
		d.link(limiter.Operator)
	}
	if n := len(d.handler.Sessions.links); n > maxLinks {
		t.Errorf("there are %d links", n)
	}
	d.status(http.StatusUnauthorized, "the oldest of many links", d.do("POST", sessionPath, oldest))
}

func TestSigningInIsRefusedFromElsewhereAndInPlainText(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, _ := d.newToken("anna", "reader")
	sign := `{"token":"` + text + `"}`
	for name, test := range map[string]struct {
		status int
		header []string
	}{
		"another site":   {403, []string{"Sec-Fetch-Site", "", "Sec-Fetch-Site", "cross-site"}},
		"another origin": {403, []string{"Origin", "https://elsewhere.example"}},
		"a form":         {415, []string{"Content-Type", "", "Content-Type", "text/plain"}},
		"plain HTTP":     {403, []string{"Host", "till.example.com"}},
		"a rebound name": {403, []string{"Host", "evil.example:8081"}},
		"a local name":   {200, []string{"Host", "localhost:8081"}},
		"IPv6 loopback":  {200, []string{"Host", "[::1]:8081", "Origin", "http://[::1]:8081"}},
	} {
		d.status(test.status, name, d.do("POST", sessionPath, sign, test.header...))
	}
	for name, body := range map[string]string{
		"nothing": "{}", "both": `{"token":"a","link":"b"}`, "no JSON": "token", "a list": "[]",
		"much": `{"token":"` + strings.Repeat("x", maxSignIn) + `"}`,
	} {
		d.status(http.StatusBadRequest, name, d.do("POST", sessionPath, body))
	}
	d.encrypted = true
	res := d.do("POST", sessionPath, sign, "Host", "till.example.com", "Origin", "https://till.example.com")
	d.status(http.StatusOK, "over HTTPS", res)
	if c := res.Header.Get("Set-Cookie"); !strings.HasPrefix(c, "__Host-till=") || !strings.Contains(c, "; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=Strict") {
		t.Errorf("the cookie is %s", c)
	}
	d.status(http.StatusForbidden, "the HTTP origin of an HTTPS site", d.do("POST", sessionPath, sign, "Host", "till.example.com", "Origin", "http://till.example.com"))
}

func TestSigningInIsLimitedPerAddress(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var limited *http.Response
	for range 100 {
		res := d.do("POST", sessionPath, `{"token":"till_admin_0000000000000000000000000000"}`)
		if res.StatusCode == http.StatusTooManyRequests {
			limited = res
		}
	}
	if limited == nil || limited.Header.Get("Retry-After") != "60" {
		t.Fatalf("100 wrong tokens from one address are not limited: %v", limited)
	}
}

func TestEveryAnswerIsHardenedAndNoSecretIsLogged(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, _ := d.newToken("anna", "reader")
	session := d.signIn(`{"token":"` + text + `"}`)
	for _, path := range []string{"/", "/till", "/till/", "/till/assets/app.js", "/till/assets/nothing.js", "/till/assets/../console.go", "/till/elsewhere", sessionPath, "/till/api/keys", "/till/api/"} {
		h := d.do("GET", path, "", session...).Header
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "trusted-types 'none'"} {
			if !strings.Contains(csp, want) || strings.Contains(csp, "unsafe") {
				t.Errorf("%s: Content-Security-Policy is %s", path, csp)
			}
		}
		cache := h.Get("Cache-Control")
		if cache != "no-store" && !(path == "/till/assets/app.js" && cache == "no-cache") || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %v", path, h)
		}
	}
	d.do("POST", sessionPath, `{"token":"`+text+`x"}`)
	if log := d.log.String(); strings.Contains(log, text) || strings.Contains(log, strings.TrimPrefix(session[1], "till=")) || strings.Contains(log, session[3]) {
		t.Errorf("the log has a secret:\n%s", log)
	}
}

func TestSigningInOverAndOverEndsNobodyElsesSession(t *testing.T) {
	t.Parallel()
	s := NewSessions(nil)
	_, id, proof := s.begin(limiter.Operator)
	greedy := limiter.Caller{Name: "greedy", Token: "tok_1", Role: "reader"}
	var last, lastProof string
	for range 2 * maxSessions {
		_, next, nextProof := s.begin(greedy)
		last, lastProof = next.Reveal(), nextProof.Reveal()
	}
	if _, ok := s.find(id.Reveal(), proof.Reveal()); !ok {
		t.Error("the operator was signed out by somebody else")
	}
	if _, ok := s.find(last, lastProof); !ok {
		t.Error("the last to sign in is not signed in")
	}
	if len(s.all) != maxSessionsOf+1 {
		t.Errorf("%d sessions, want %d", len(s.all), maxSessionsOf+1)
	}
	for i := range 2 * maxSessions {
		s.begin(limiter.Caller{Token: fmt.Sprintf("tok_%d", i), Role: "reader"})
	}
	if len(s.all) != maxSessions {
		t.Errorf("%d sessions of all, want %d", len(s.all), maxSessions)
	}
}

// TestEarlyDataIsRefused, whatever it asks for: its address is not verified.
func TestEarlyDataIsRefused(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	text, _ := d.newToken("anna", "reader")
	for _, path := range []string{"/till/api/keys", sessionPath, home} {
		for _, complete := range []bool{false, true} {
			r := httptest.NewRequest("GET", "https://"+here+path, nil)
			r.TLS = &tls.ConnectionState{HandshakeComplete: complete}
			r.Header.Set("Authorization", "Bearer "+text)
			w := httptest.NewRecorder()
			d.handler.ServeHTTP(w, r)
			early := strings.Contains(w.Body.String(), `"code":"too_early"`) && w.Header().Get("Retry-After") != ""
			if (w.Code == http.StatusTooEarly) == complete || early == complete {
				t.Errorf("%s, complete %t: %d %s", path, complete, w.Code, w.Body)
			}
		}
	}
}
