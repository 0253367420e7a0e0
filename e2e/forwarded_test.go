package e2e

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// proxied sends a request as a proxy on this machine passes it on: it appends the
// address that it saw to what the client had written.
func (s *server) proxied(key, wrote, saw string) (int, string) {
	s.t.Helper()
	r := s.request(context.Background(), key)
	if wrote != "" {
		r.Header.Add("X-Forwarded-For", wrote)
	}
	r.Header.Add("X-Forwarded-For", saw)
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode, res.Header.Get("Till-Refusal")
}

// TestNoClientChoosesTheAddressThatItComesFrom: behind a proxy that Caddy trusts,
// what the client itself wrote into X-Forwarded-For counts nowhere.
func TestNoClientChoosesTheAddressThatItComesFrom(t *testing.T) {
	t.Parallel()
	const inside, outside, outsider = "10.1.1.1", "203.0.113.9", "198.51.100.7"
	addr := freePort(t)
	o := consoleOptions(addr)
	o.more += "\nrole local {\n\tpermissions keys:create keys:read\n\tips 10.0.0.0/8\n}\n"
	s := newServer(t, o)
	c := &console{server: s, base: "http://" + addr}

	// Without strictness no configuration with till starts, or is loaded.
	s.replace("persist_config off", "persist_config off\n\tservers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t}")
	for _, try := range [][]string{{"validate", "--config", s.config}, {"reload", "--config", s.config, "--address", s.admin}, {"till", "doctor", "--config", s.config}} {
		out, err := s.command(try...).CombinedOutput()
		if _, failed := err.(*exec.ExitError); !failed || !strings.Contains(string(out), "trusted_proxies_strict") {
			t.Errorf("caddy %s: %v\n%s", strings.Join(try, " "), err, out)
		}
		s.oldEndpointIsGone() // a reload that failed replaces it, too
	}
	s.replace("127.0.0.1/32", "127.0.0.1/32\n\t\ttrusted_proxies_strict")
	s.reload()

	lead := c.hire("lead", "local")["token"].(string)
	_, listed := s.mint(object{"max_activations": 50, "ips": []string{"10.0.0.0/8"}})
	pinnedID, pinned := s.mint(object{"max_activations": 50, "pin_ip": true})
	ofRole := func() string {
		res, body := c.must(c.forged("POST", "/till/api/keys", `{"upstream":"mock","max_activations":50}`, lead, inside, outside))
		if res.StatusCode != http.StatusCreated {
			t.Fatalf("minting: %s %s", res.Status, body)
		}
		_, rest, _ := strings.Cut(body, `"scoped_key":"`)
		key, _, _ := strings.Cut(rest, `"`)
		return key
	}()
	for what, test := range map[string]struct{ key, wrote, saw, code string }{
		"ips, from inside":          {listed, "", inside, ""},
		"ips, forged":               {listed, inside, outside, "till_ip_not_allowed"},
		"ips, forged with a list":   {listed, inside + ", " + inside, outside, "till_ip_not_allowed"},
		"ips, forged as the proxy":  {listed, inside + ", 127.0.0.1", outside, "till_ip_not_allowed"},
		"a role's ips, from inside": {ofRole, "", inside, ""},
		"a role's ips, forged":      {ofRole, inside, outside, "till_ip_not_allowed"},
	} {
		if status, code := s.proxied(test.key, test.wrote, test.saw); code != test.code || (status == http.StatusOK) != (test.code == "") {
			t.Errorf("%s: %d %s, want %q", what, status, code, test.code)
		}
	}
	if _, code := s.proxied(pinned, inside, outside); code != "" { // which pins what the proxy saw
		t.Errorf("pin_ip, the first: %s", code)
	}
	if _, code := s.proxied(pinned, outside, outsider); code != "till_ip_not_allowed" {
		t.Errorf("pin_ip, forged: %q", code)
	}
	if _, code := s.proxied(pinned, inside, outside); code != "" {
		t.Errorf("pin_ip, from the pinned address: %s", code)
	}
	if _, key := s.api("GET", "/keys/"+pinnedID, nil); key["last_ip"] != outside {
		t.Errorf("last_ip is %v", key["last_ip"])
	}
	_, log := s.api("GET", "/audit?action=key.create&actor=lead", nil)
	if entries := log["entries"].([]any); len(entries) != 1 || entries[0].(object)["from"] != outside {
		t.Errorf("the audit log: %v", log)
	}
	// The limit of sign-ins is one of whom the proxy saw.
	statuses := map[int]int{}
	for n := range 30 {
		wrote := "192.0.2." + string(rune('0'+n%10))
		res, _ := c.must(c.forged("GET", "/till/api/stats", "", "till_admin_wrong", wrote, outsider))
		statuses[res.StatusCode]++
	}
	if statuses[http.StatusTooManyRequests] == 0 {
		t.Errorf("guesses were answered with %v", statuses)
	}
}

// forged is a call of the console's API as a proxy passes it on.
func (c *console) forged(method, path, body, token, wrote, saw string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("X-Forwarded-For", wrote+", "+saw)
	return r
}
