package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// console is a server with a console on a site of its own.
type console struct {
	*server
	base   string // its address
	plan   object // further input of a flow
	closed bool   // its store is closed, so that no token can be issued
}

func consoleOptions(addr string) options {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	return options{
		more: `public_url http://agents.example.com
		console_url http://` + addr + `
		role researcher {
			permissions keys:create keys:read keys:revoke
			max_activations 500
			max_spend $5
			max_lifetime 24h
		}
		role reader {
			permissions keys:read
			sees all
		}
		role lead {
			permissions keys:create keys:read keys:update keys:revoke keys:rotate audit:read tokens:manage
			sees all
		}`,
		sites: "http://:" + port + " {\n\ttill_console\n}\n",
	}
}

func newConsole(t *testing.T) *console {
	t.Helper()
	addr := freePort(t)
	return &console{server: newServer(t, consoleOptions(addr)), base: "http://" + addr}
}

// hire makes an admin token.
func (c *console) hire(name, role string) object {
	c.t.Helper()
	status, answer := c.api("POST", "/tokens", object{"name": name, "role": role})
	if status != http.StatusCreated {
		c.t.Fatalf("making a token: %d %v", status, answer)
	}
	return answer
}

// link is an address that signs in once.
func (c *console) link() string {
	c.t.Helper()
	status, answer := c.api("POST", "/console/link", nil)
	if status != http.StatusCreated {
		c.t.Fatalf("making a link: %d %v", status, answer)
	}
	return answer["url"].(string)
}

// browser goes through a flow of browser/flows.mjs and returns what that returns. Its
// test has waited for its turn with the browser before it started the server: who
// waits with one keeps others from theirs.
func (c *console) browser(flow string) json.RawMessage {
	c.t.Helper()
	plan := object{"base": c.base, "keys": "http://" + c.addr, "link": c.link(), "real": realKey}
	if !c.closed {
		maps.Copy(plan, object{
			"token": c.hire("ops", "*")["token"], "second": c.hire("second", "lead"), "researcher": c.hire("researcher", "researcher"), "reader": c.hire("reader", "reader"),
		})
	}
	maps.Copy(plan, c.plan)
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*patience)
	defer cancel()
	value, err := goThrough(ctx, flow, plan)
	if err != nil {
		c.t.Fatalf("%s: %v", flow, err)
	}
	return value
}

func TestTheConsoleInABrowser(t *testing.T) {
	t.Parallel()
	for flow, what := range map[string]string{
		"signin":   "people sign in with a token, and out, and with the token the session ends",
		"link":     "a one-time link signs in once, and its secret stays nowhere",
		"mint":     "the form shows the ceilings, and the key with its lines once",
		"sealed":   "a key that carries the real one is minted and rotated",
		"keys":     "the list lives, is filtered, searched, paged, and locked down",
		"bulk":     "all that match end, after the right count was typed",
		"key":      "one key is charted, granted, suspended, rotated, revoked and audited",
		"children": "a key minted below another is found, and its parent",
		"estate":   "the store's health, the prices' age, and spend by upstream, owner and model",
		"events":   "what happens is told as it happens, in the list of keys, too",
		"audit":    "the audit log is paged, filtered and verified",
		"access":   "an admin token is made and revoked",
		"reader":   "who may only read is told so, and offered nothing else",
		"away":     "a server that does not answer is no closed store, and ends no session",
		"long":     "the longest names leave every page within the window",
		"many":     "very many keys are looked through once, and not every other second",
		"address":  "an address that leads nowhere says so",
		"tabs":     "every tab says who acts in it, also after somebody else has signed in in another",
		"untold":   "a lockdown that other servers do not know of is not said to hold there",
		"lost":     "a grant whose answer is lost is not given twice",
		"late":     "an answer that comes late is not drawn over a newer one",
		"label":    "a filter by what is no label shows no keys, and ends none",
		"keyboard": "signing in, minting and revoking need no pointer",
		"closing":  "what a dialog does is told when it is done, although the dialog was closed",
		"left":     "a string that comes late is shown wherever its user is, and not after they have signed out",
		"dropped":  "a string that is gone is said to be, and nothing untrue",
		"matched":  "the strings of keys that end because they match go, and no others",
		"tokens":   "the end of one admin token leaves what is shown of the others",
		"ticks":    "the keys that can be ended are those with a tick",
		"steady":   "a row keeps the focus while one above it goes",
		"lift":     "a lockdown can be lifted by who signs in after somebody who cannot",
		"outdated": "a page that cannot be read again says so",
		"hanging":  "a page that waits for ever is not taken for a fresh one",
	} {
		t.Run(flow, func(t *testing.T) {
			t.Parallel()
			t.Log(what)
			browse(t, flow)
		})
	}
}

// TestEveryPageOfTheConsoleIsAccessible looks at each, narrow or wide, light or dark, for
// what axe-core calls serious.
func TestEveryPageOfTheConsoleIsAccessible(t *testing.T) {
	t.Parallel()
	browse(t, "axe")
}

// browse goes through a flow with a new server, whose log keeps all secrets to itself.
func browse(t *testing.T, flow string) {
	t.Helper()
	waitsFor(t, browserPlaces, 1)
	c := newConsole(t)
	c.browser(flow)
	for _, secret := range []string{"till_sk_", "till_admin_", "signin=", realKey} {
		if strings.Contains(c.output(), secret) {
			t.Errorf("the log has %s:\n%s", secret, c.output())
		}
	}
}

func TestTheConsoleSaysWhatIsToMend(t *testing.T) {
	t.Parallel()
	waitsFor(t, browserPlaces, 1)
	c, _ := newLivedConsole(t, "docs-writer", "release-notes")
	c.browser("stale")
}

func TestTheConsoleWorksWhileTheStoreIsClosed(t *testing.T) {
	t.Parallel()
	waitsFor(t, browserPlaces, 1)
	c := newConsole(t)
	_, key := c.mint(object{"max_activations": 5})
	c.stop()
	if err := os.Remove(filepath.Join(c.store(), "anchor")); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.closed = true
	c.browser("closed")
	if status, body := c.sends(key); status != http.StatusForbidden || !strings.Contains(body, "till_locked_down") {
		t.Errorf("after the lockdown: %d %s", status, body)
	}
}

// TestTheConsoleBehindAProxy: a proxy's word that a request came over HTTPS counts
// only if Caddy is configured to trust that proxy.
func TestTheConsoleBehindAProxy(t *testing.T) {
	t.Parallel()
	c := newConsole(t)
	token := c.hire("ops", "*")["token"].(string)
	signIn := func() (*http.Response, string) {
		r, err := http.NewRequest("POST", c.base+"/till/session", strings.NewReader(`{"token":"`+token+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "till.example.com"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Origin", "https://till.example.com")
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		return c.must(r)
	}
	if res, _ := signIn(); res.StatusCode != http.StatusForbidden || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("from anybody: %s", res.Status)
	}
	c.replace("persist_config off", "persist_config off\n\tservers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t\ttrusted_proxies_strict\n\t}")
	c.reload()
	res, body := signIn()
	if cookie := res.Header.Get("Set-Cookie"); res.StatusCode != http.StatusOK || !strings.HasPrefix(cookie, "__Host-till=") || !strings.Contains(cookie, "; Secure") {
		t.Errorf("from a trusted proxy: %s %q", res.Status, cookie)
	}
	// The session outlives another reload.
	var who struct{ Proof string }
	if err := json.Unmarshal([]byte(body), &who); err != nil {
		t.Fatal(err)
	}
	c.reload()
	look, err := http.NewRequest("GET", c.base+"/till/api/stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	look.Host = "till.example.com"
	look.Header.Set("X-Forwarded-Proto", "https")
	look.Header.Set("Sec-Fetch-Site", "same-origin")
	look.Header.Set("Till-Proof", who.Proof)
	for _, cookie := range res.Cookies() {
		look.AddCookie(cookie)
	}
	if res, body := c.must(look); res.StatusCode != http.StatusOK {
		t.Errorf("after a reload: %s %s", res.Status, body)
	}
	// The audit log has the address of the person, not that of the proxy.
	r, err := http.NewRequest("POST", c.base+"/till/api/keys", strings.NewReader(`{"upstream":"mock","max_activations":1}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("X-Forwarded-For", "198.51.100.7")
	if res, body := c.must(r); res.StatusCode != http.StatusCreated {
		t.Fatalf("minting: %s %s", res.Status, body)
	}
	_, log := c.api("GET", "/audit?action=key.create", nil)
	if entries := log["entries"].([]any); len(entries) != 1 || entries[0].(object)["from"] != "198.51.100.7" || entries[0].(object)["actor"] != "ops" {
		t.Errorf("the audit log: %v", log)
	}
}

// TestTheShippedFilterKeepsSessionsOutOfTheLogs: a reader of an access log gets
// neither half of what opens the console.
func TestTheShippedFilterKeepsSessionsOutOfTheLogs(t *testing.T) {
	t.Parallel()
	c := newConsole(t)
	token := c.hire("ops", "*")["token"].(string)
	log := filepath.Join(c.dir, "access.log")
	c.replace("log default {\n\t\tlevel INFO\n\t}", shippedFilter(t, log))
	c.replace("till_console\n", "log\n\ttill_console\n")
	c.reload()
	call := func(method, path, body string, header ...string) (*http.Response, string) {
		r, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		header = append(header, "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin")
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return c.must(r)
	}
	res, body := call("POST", "/till/session", `{"token":"`+token+`"}`)
	var who struct{ Proof string }
	if err := json.Unmarshal([]byte(body), &who); err != nil || who.Proof == "" || len(res.Cookies()) != 1 {
		t.Fatalf("signing in: %s %s", res.Status, body)
	}
	cookie := res.Cookies()[0]
	if res, body := call("GET", "/till/api/stats", "", "Till-Proof", who.Proof, "Cookie", cookie.String()); res.StatusCode != http.StatusOK {
		t.Fatalf("with the session: %s %s", res.Status, body)
	}
	c.eventually("both calls are logged", func() bool {
		b, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(b), "/till/session") && strings.Contains(string(b), "/till/api/stats")
	})
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{"token": token, "cookie": cookie.Value, "proof": who.Proof} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the log has the %s", what)
		}
	}
}

func TestTheConsoleNeverSharesASiteWithKeys(t *testing.T) {
	t.Parallel()
	c := newConsole(t)
	for name, site := range map[string]string{
		"side by side":         "till\ntill_console",
		"in blocks of its own": "handle /v1/* {\ntill\n}\nhandle {\ntill_console\n}",
	} {
		path := filepath.Join(c.dir, strings.ReplaceAll(name, " ", "-")+".caddyfile")
		caddyfile := fmt.Sprintf("{\n\tadmin off\n\ttill {\n\t\tstore badger %s\n\t\tupstream mock openai {\n\t\t\tto %s\n\t\t\tcredential {env.MOCK_KEY}\n\t\t}\n\t}\n}\n\nagents.example.com {\n%s\n}\n",
			filepath.Join(c.dir, "other"), c.upstream.URL, site)
		if err := os.WriteFile(path, []byte(caddyfile), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := c.command("validate", "--config", path, "--adapter", "caddyfile").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "till and till_console stand on one site") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	// Keys open nothing on the console's site, and the console has no proxy.
	_, key := c.mint(object{"max_activations": 1})
	for path, want := range map[string]int{"/v1/chat/completions": 200, "/till/self": 404, "/till/api/keys": 401} {
		r := c.request(t.Context(), key)
		r.URL.Host, r.URL.Path = strings.TrimPrefix(c.base, "http://"), path
		if res, body := c.must(r); res.StatusCode != want || strings.Contains(body, "hi there") {
			t.Errorf("%s on the console's site: %d %s", path, res.StatusCode, body)
		}
	}
	if n := c.upstream.Count(); n != 0 {
		t.Errorf("%d requests were forwarded", n)
	}
}

// paintVariable says with how many keys the list is timed.
const paintVariable = "TILL_PAINT"

// TestTheListPaintsWithinASecond times the list of keys, from nothing to a
// frame with the first page in it: with as many keys as TILL_PAINT says, and
// then it must be within a second.
func TestTheListPaintsWithinASecond(t *testing.T) {
	keys, timed := 1000, os.Getenv(paintVariable)
	if timed != "" {
		var err error
		if keys, err = strconv.Atoi(timed); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Parallel()
	}
	waitsFor(t, browserPlaces, 1)
	c := newConsole(t)
	c.stop()
	start := time.Now()
	mintMany(t, c.store(), keys)
	t.Logf("minted %d keys in %s", keys, time.Since(start).Round(time.Millisecond))
	c.start()
	var runs []int
	if err := json.Unmarshal(c.browser("paint"), &runs); err != nil {
		t.Fatal(err)
	}
	slices.Sort(runs)
	t.Logf("with %d keys a page of them is painted in %d ms (median of %d loads; %d to %d ms)", keys, runs[len(runs)/2], len(runs), runs[0], runs[len(runs)-1])
	if timed != "" && runs[len(runs)-1] > 1000 {
		t.Errorf("a load took more than a second: %v", runs)
	}
}

// mintMany makes keys in a store that no server has open.
func mintMany(t *testing.T, dir string, n int) {
	t.Helper()
	store, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: store, Anchor: filepath.Join(dir, "anchor"), Shadow: filepath.Join(dir, "shadow")})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	numbers := make(chan int, 64)
	for range 64 {
		wg.Go(func() {
			for i := range numbers {
				_, lookup, err := token.MintKey()
				if err != nil {
					t.Error(err)
					return
				}
				k := &record.Key{Name: fmt.Sprintf("agent-%06d", i), Upstream: "mock", Custody: record.CustodyHeld, Owner: fmt.Sprintf("team-%d", i%100), Limit: record.NoLimits()}
				k.Limit[record.Activations] = 500
				for {
					_, err = l.Mint(limiter.Operator, k, limiter.Birth{Lookup: lookup})
					if !errors.Is(err, commit.ErrBusy) { // nothing was done: a disk that others keep busy
						break
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
