package e2e

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// compare holds the four accounts against each other, and prints them.
func (s *soak) compare(first, last memory) {
	t := s.t
	s.client.CloseIdleConnections()
	metric := func(name string) (sum float64) {
		for line := range strings.Lines(s.adminPage("/metrics")) {
			fields := strings.Fields(line)
			if len(fields) == 2 && (fields[0] == name || strings.HasPrefix(fields[0], name+"{")) {
				n, err := strconv.ParseFloat(fields[1], 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += n
			}
		}
		return sum
	}
	s.eventually("nothing is in flight", func() bool { return metric("caddy_till_holds") == 0 })
	var used, tokens int64
	ended := make(map[string]string)
	for _, m := range s.all {
		k := s.show(m.id)
		n, tk := int64(k["used_activations"].(float64)), int64(0)
		if m.metered {
			tk = int64(k["used_tokens"].(float64))
		}
		if n != m.bill.requests.Load() || tk != m.bill.tokens.Load() {
			t.Errorf("key %s: the upstream counts %d requests and %d tokens, till %d and %d",
				m.id, m.bill.requests.Load(), m.bill.tokens.Load(), n, tk)
		}
		used, tokens = used+n, tokens+tk
		if status := k["status"].(string); status == "exhausted" && !m.renews || status == "revoked" {
			ended[m.id] = status
		}
	}
	_, stats := s.api("GET", "/stats", nil)
	audit := s.auditCounts(ended)
	rows := []struct {
		what                            string
		upstream, keys, store, measured int64
	}{
		{"requests", s.total.requests.Load(), used, int64(stats["used_activations"].(float64)), int64(metric("caddy_till_activations_total"))},
		{"tokens of metered keys", s.total.tokens.Load(), tokens, -1, int64(metric("caddy_till_tokens_total"))},
	}
	t.Logf("%-24s %12s %12s %12s %12s", "", "upstream", "the keys", "the store", "metrics")
	for _, r := range rows {
		t.Logf("%-24s %12d %12d %12d %12d", r.what, r.upstream, r.keys, r.store, r.measured)
		if r.keys != r.upstream || r.store >= 0 && r.store != r.upstream || r.measured != r.upstream {
			t.Errorf("%s do not agree", r.what)
		}
	}
	t.Logf("%-24s %12s %12s", "", "done", "audit log")
	for _, r := range []struct {
		what string
		done int64
		act  string
	}{
		{"keys minted", s.mints, "key.create"}, {"grants", s.grants + s.extensions, "key.grant"},
		{"changes", s.changes.Load(), "key.update"}, {"revocations", s.revokes, "key.revoke"},
	} {
		t.Logf("%-24s %12d %12d", r.what, r.done, audit[r.act])
		if audit[r.act] != r.done {
			t.Errorf("%s: %d were done, the audit log has %d", r.what, r.done, audit[r.act])
		}
	}
	t.Logf("%-24s %12d", "reloads", s.reloads)
	t.Logf("%-24s %12d %12d %12d", "aborted, cut, no answer", s.aborted.Load(), s.cut.Load(), s.unanswered.Load())
	t.Logf("%-24s %12d", "503 for a slow disk", s.slow.Load())
	t.Logf("after a minute:          %s", first)
	t.Logf("at the end:              %s", last)
	t.Logf("%-24s %+11.1f %%", "own memory grew by", 100*float64(last.own-first.own)/float64(first.own))
	if float64(last.own) > 1.1*float64(first.own) {
		t.Errorf("memory grew from %s to %s", first, last)
	}
}

// auditCounts reads the whole audit log, checks its chain, and counts acts. Each
// key that has ended must have its entry.
func (s *soak) auditCounts(ended map[string]string) map[string]int64 {
	s.t.Helper()
	out, err := s.command("till", "audit", "verify").CombinedOutput()
	if err != nil {
		s.t.Errorf("the audit log: %v\n%s", err, out)
	}
	res, text := s.must(must(http.NewRequest("GET", "http://"+s.admin+"/till/audit/export", nil))(s.t))
	if res.StatusCode != http.StatusOK {
		s.t.Fatal(res.Status, text)
	}
	counts := make(map[string]int64)
	for line := range strings.Lines(text) {
		var e struct{ Action, Key string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		counts[e.Action]++
		if "key."+ended[e.Key] == e.Action || ended[e.Key] == "revoked" && e.Action == "key.revoke" {
			delete(ended, e.Key)
		}
	}
	for id, status := range ended {
		s.t.Errorf("key %s is %s, and the audit log does not say when", id, status)
	}
	return counts
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
