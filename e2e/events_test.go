package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCaddysEventsReportWhatBecomesOfKeys reads the events where Caddy itself
// writes them: in the debug log of its events app.
func TestCaddysEventsReportWhatBecomesOfKeys(t *testing.T) {
	t.Parallel()
	u := newMeteredUpstream(t)
	s := spendServer(t, u)
	file := filepath.Join(s.dir, "events.log")
	s.replace("log default {\n\t\tlevel INFO\n\t}", "log default {\n\t\tlevel INFO\n\t}\n\tlog events {\n\t\tlevel DEBUG\n\t\tinclude events\n\t\toutput file "+file+"\n\t}")
	s.reload()
	id, key := s.mint(object{"max_activations": 2})
	for range 2 {
		if status, body := s.sendBody(key, `{"model":"m","messages":[],"max_completion_tokens":10}`); status != 200 {
			t.Fatal(status, body)
		}
	}
	other, otherKey := s.mint(object{"max_activations": 2})
	if status, answer := s.api("POST", "/keys/"+other+"/revoke", object{}); status != 200 {
		t.Fatal(status, answer)
	}
	for range 3 { // told once
		s.refuses("a revoked key", otherKey, 403, "till_key_revoked")
	}
	canary, canaryKey := s.mint(object{"max_activations": 0})
	s.refuses("a canary", canaryKey, 402, "till_activations_exhausted")
	leaked, leakedKey := s.mint(object{"max_activations": 2})
	if status, answer := s.api("POST", "/leaks", object{"text": "curl -u " + leakedKey + ":"}); status != 200 || answer["found"].(float64) != 1 {
		t.Fatal(status, answer)
	}
	want := []string{
		"key_created " + id, "key_threshold " + id + " 50", "key_threshold " + id + " 100", "key_exhausted " + id,
		"key_created " + other, "key_revoked " + other,
		"key_after_death " + other, "key_after_death " + canary, "key_revoked " + leaked, "key_leaked " + leaked,
	}
	var got []string
	s.eventually("the events are logged", func() bool {
		got = nil
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(b)) {
			var e struct {
				Msg, Name string
				Data      struct {
					KeyID   string `json:"key_id"`
					Percent json.Number
				}
			}
			if json.Unmarshal([]byte(line), &e) == nil && e.Msg == "event" && strings.HasPrefix(e.Name, "key_") {
				got = append(got, strings.TrimSpace(e.Name+" "+e.Data.KeyID+" "+e.Data.Percent.String()))
			}
		}
		return !slices.ContainsFunc(want, func(line string) bool { return !slices.Contains(got, line) })
	})
	for _, line := range want {
		if n := strings.Count(strings.Join(got, "\n")+"\n", line+"\n"); n != 1 {
			t.Errorf("%q is told %d times, in %q", line, n, got)
		}
	}
	if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), key) {
		t.Errorf("an event shows the key (%v)", err)
	}
}
