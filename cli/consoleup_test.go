package cli_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// enter signs in with a link in the same way as the dashboard's page.
func enter(t *testing.T, address string) *http.Response {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	secret, ok := strings.CutPrefix(u.Fragment, "signin=")
	if !ok || u.Path != "/till/" || u.RawQuery != "" {
		t.Fatalf("the link is %s", address)
	}
	r, err := http.NewRequest("POST", "http://"+u.Host+"/till/session", strings.NewReader(`{"link":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", "http://"+u.Host)
	res, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res
}

func TestUpServesADashboardAndLinksThatSignInOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.up()
	if r.said.Console == nil || time.Until(r.said.Console.ExpiresAt) > 10*time.Minute {
		t.Fatalf("the greeting is %+v", r.said)
	}
	if res := enter(t, r.said.Console.URL); res.StatusCode != http.StatusOK || len(res.Cookies()) != 1 {
		t.Errorf("the link signs in with %s", res.Status)
	}
	if res := enter(t, r.said.Console.URL); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("the link signs in again: %s", res.Status)
	}
	out, errOut, code := m.till("console")
	fields := strings.Fields(out)
	if code != 0 || len(fields) == 0 {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	if res := enter(t, fields[len(fields)-1]); res.StatusCode != http.StatusOK {
		t.Errorf("a link of the command signs in with %s", res.Status)
	}
	if len(fields[len(fields)-1]) > 78 {
		t.Errorf("the link does not fit a line: %s", out)
	}
	if code := r.end(syscall.SIGTERM); code != 0 || strings.Contains(r.log.String(), "signin=") {
		t.Errorf("up ended with %d: %s", code, r.log)
	}
}
