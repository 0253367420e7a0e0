package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// act makes a management call that has to succeed.
func (s *server) act(method, path string, body any) object {
	s.t.Helper()
	status, answer := s.inTouch(method, path, body)
	if status/100 != 2 {
		s.t.Fatalf("%s %s: %d %v", method, path, status, answer)
	}
	return answer
}

// TestWhatIsDoneAtOneNodeIsFeltAtAnother has a key in use at one node, and does something
// to it at the other. What stops a key is felt when the call returns; all else soon.
func TestWhatIsDoneAtOneNodeIsFeltAtAnother(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	c := newCluster(t, clusterOptions{options: options{more: "role crew {\n\tmax_activations 50\n\tbudget activations 7\n}"}})
	a, b := c.nodes[0], c.nodes[1]
	answers := func(key, refusal string) bool {
		got := c.chatOn(b, key)
		return got.refusal == refusal && (got.status == http.StatusOK) == (refusal == "")
	}
	at := func(t *testing.T, key, refusal string) {
		t.Helper()
		if got := c.answerOn(b, key); got.refusal != refusal || (got.status == http.StatusOK) != (refusal == "") {
			t.Errorf("the other node answers %d %q, want %q", got.status, got.refusal, refusal)
		}
	}
	soon := func(t *testing.T, key, refusal string) {
		t.Helper()
		b.eventually(fmt.Sprintf("the other node answers %q", refusal), func() bool { return answers(key, refusal) })
	}
	for _, test := range []struct {
		name   string
		fields object
		do     func(t *testing.T, id, key string)
	}{
		{"suspend and resume", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			stream := c.opens(b, key)
			a.act("POST", "/keys/"+id+"/suspend", object{})
			at(t, key, "till_key_suspended")
			c.endsBy(b, stream, "till_key_suspended")
			a.act("POST", "/keys/"+id+"/resume", object{})
			soon(t, key, "")
		}},
		{"grant", object{"max_activations": 1}, func(t *testing.T, id, key string) {
			at(t, key, "till_activations_exhausted")
			a.act("POST", "/keys/"+id+"/grant", object{"activations": 2})
			soon(t, key, "")
			at(t, key, "")
			at(t, key, "till_activations_exhausted")
		}},
		{"a grant to a key that still has something", object{"max_activations": 2}, func(t *testing.T, id, key string) {
			a.act("POST", "/keys/"+id+"/grant", object{"activations": 1})
			at(t, key, "")
			soon(t, key, "") // it knows of the third, or looks
			at(t, key, "till_activations_exhausted")
		}},
		{"patch of a scope", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			a.act("PATCH", "/keys/"+id, object{"models": []string{"another"}})
			soon(t, key, "till_model_not_allowed")
			a.act("PATCH", "/keys/"+id, object{"models": nil})
			soon(t, key, "")
		}},
		{"patch of a limit", object{"max_activations": 1000}, func(t *testing.T, id, key string) {
			a.act("PATCH", "/keys/"+id, object{"max_activations": 3})
			at(t, key, "")
			at(t, key, "")
			at(t, key, "till_activations_exhausted")
		}},
		{"patch of an end", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			stream := c.opens(b, key)
			if status, answer := a.endsSoon(id, "expires_at"); status != http.StatusOK {
				t.Fatal(status, answer)
			}
			soon(t, key, "till_key_expired")
			c.end(stream)
		}},
		{"rotate", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			next := a.rotate(id, object{})
			soon(t, key, "till_key_revoked")
			at(t, next, "")
		}},
		{"rotate with a grace", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			next := a.rotate(id, object{"grace": "1h"})
			at(t, key, "")
			at(t, next, "")
		}},
		{"a child that is made, used and ended at different nodes", object{"max_activations": 10, "delegate": true}, func(t *testing.T, id, key string) {
			childID, child := a.child(key, object{"max_activations": 4})
			at(t, child, "")
			at(t, child, "")
			at(t, key, "")
			b.act("POST", "/keys/"+childID+"/revoke", object{})
			if got := c.answerOn(a, child); got.refusal != "till_key_revoked" {
				t.Errorf("the child: %d %s", got.status, got.refusal)
			}
			// It is tried again while the end of a request is still to be noted.
			for _, s := range c.nodes {
				s.eventually("the child's rest is back", func() bool { return s.show(id)["children"] == nil })
			}
			// One for a request before, one for the child, two of the child's, one here:
			// five are left.
			for range 5 {
				at(t, key, "")
			}
			at(t, key, "till_activations_exhausted")
		}},
		{"a parent's end", object{"max_activations": 10, "delegate": true}, func(t *testing.T, id, key string) {
			_, child := b.child(key, object{"max_activations": 4})
			stream := c.opens(b, child)
			a.act("POST", "/keys/"+id+"/revoke", object{})
			at(t, child, "till_key_revoked")
			c.end(stream)
		}},
		{"revoked by its holder", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			if status, code, answer := a.asHolder("DELETE", "/till/self", key, nil); status != http.StatusOK {
				t.Fatalf("%d %s %v", status, code, answer)
			}
			at(t, key, "till_key_revoked")
		}},
		{"found in a text", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			a.act("POST", "/leaks", object{"text": "export KEY=" + key})
			at(t, key, "till_key_revoked")
		}},
		{"forgotten", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			a.act("POST", "/keys/"+id+"/revoke", object{})
			a.eventually("the other node has written what it has used", func() bool {
				status, answer := a.inTouch("DELETE", "/keys/"+id, nil)
				if status/100 != 2 && status != http.StatusConflict {
					t.Fatal(status, answer)
				}
				return status != http.StatusConflict
			})
			soon(t, key, "till_key_invalid")
		}},
		{"a key that renews", object{"max_activations": 3, "renews": farRenewal(time.Now().UTC())}, func(t *testing.T, id, key string) {
			if got := c.answerOn(a, key); got.status != http.StatusOK {
				t.Error(got)
			}
			at(t, key, "")
			at(t, key, "till_activations_exhausted")
			if n := c.usedOn(id); n != 3 || a.show(id)["renews_at"] != b.show(id)["renews_at"] {
				t.Errorf("%d of 3 are used; the nodes show %v and %v", n, a.show(id), b.show(id))
			}
		}},
		{"a role's budget", object{"max_activations": 50, "role": "crew"}, func(t *testing.T, id, key string) {
			other, otherKey := b.mint(object{"max_activations": 50, "role": "crew"})
			for range 3 {
				at(t, key, "")
				if got := c.answerOn(a, otherKey); got.status != http.StatusOK {
					t.Error(got)
				}
			}
			at(t, key, "till_activations_exhausted")
			if got := c.answerOn(a, otherKey); got.status != http.StatusPaymentRequired {
				t.Errorf("key %s of the same role: %d %s", other, got.status, got.refusal)
			}
		}},
		{"many at once", object{"max_activations": 10, "owner": "bulk"}, func(t *testing.T, id, key string) {
			stream := c.opens(b, key)
			job := a.act("POST", "/keys/revoke", object{"filter": object{"owner": "bulk"}, "reason": "a drill"})
			soon(t, key, "till_key_revoked")
			c.end(stream)
			if job["matched"] != 1.0 {
				t.Errorf("the job: %v", job)
			}
		}},
		{"a lockdown", object{"max_activations": 10}, func(t *testing.T, id, key string) {
			stream := c.opens(b, key)
			a.act("POST", "/lockdown", object{"reason": "a drill"})
			at(t, key, "till_locked_down")
			c.end(stream)
			b.act("DELETE", "/lockdown", nil)
			soon(t, key, "")
			a.eventually("the lockdown is over where it began", func() bool { return c.chatOn(a, key).status == http.StatusOK })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, key := a.mint(test.fields)
			at(t, key, "")
			test.do(t, id, key)
		})
	}
	c.verified()
	for _, s := range c.nodes {
		s.clean()
	}
}

// TestAnAdminTokenWorksAtEveryNodeUntilItIsRevokedAtOne makes and ends it at different ones.
func TestAnAdminTokenWorksAtEveryNodeUntilItIsRevokedAtOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{options: options{more: "role reader {\n\tpermissions keys:read\n}"}})
	made := c.nodes[0].act("POST", "/tokens", object{"name": "ci", "role": "reader"})
	request := func(i int) *http.Request {
		r, err := http.NewRequest("GET", "http://"+c.consoles[i]+"/till/api/keys", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+made["token"].(string))
		return r
	}
	lists := func(i int) (status int) {
		c.nodes[i].eventually("it can tell who calls", func() bool { // one that has lost touch cannot
			status = answerTo(c.client, request(i)).status
			return status != http.StatusServiceUnavailable
		})
		return status
	}
	for i := range c.nodes {
		if status := lists(i); status != http.StatusOK {
			t.Errorf("at node %d: %d", i, status)
		}
	}
	c.nodes[1].act("POST", "/tokens/"+made["id"].(string)+"/revoke", object{})
	for i := range c.nodes {
		if status := lists(i); status != http.StatusUnauthorized {
			t.Errorf("after it was revoked, at node %d: %d", i, status)
		}
	}
}

// TestACallWithAnIdempotencyKeyIsCarriedOutOnceInTheCluster sends each call to all nodes at
// the same time, and again.
func TestACallWithAnIdempotencyKeyIsCarriedOutOnceInTheCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 3})
	const calls = 10
	for n := range calls {
		send := func(s *server) (int, object) {
			b, err := json.Marshal(object{"upstream": "mock", "max_activations": 5, "owner": "once"})
			if err != nil {
				t.Error(err)
			}
			r, err := http.NewRequest("POST", "http://"+s.admin+"/till/keys", bytes.NewReader(b))
			if err != nil {
				t.Error(err)
				return 0, nil
			}
			r.Header.Set("Idempotency-Key", fmt.Sprint("call-", n))
			res, err := c.client.Do(r)
			if err != nil {
				t.Error(err)
				return 0, nil
			}
			defer res.Body.Close()
			answer := object{}
			if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
				t.Error(err)
			}
			return res.StatusCode, answer
		}
		var mu sync.Mutex
		ids, secrets, away := map[any]bool{}, 0, 0
		var wg sync.WaitGroup
		for _, s := range slices.Concat(c.nodes, c.nodes) {
			wg.Go(func() {
				status, answer := send(s)
				for end := time.Now().Add(patience); status == http.StatusServiceUnavailable && time.Now().Before(end); status, answer = send(s) {
					mu.Lock()
					away++ // it may have been done all the same, and that is what the key is for
					mu.Unlock()
					time.Sleep(refusedPace)
				}
				mu.Lock()
				defer mu.Unlock()
				if status/100 != 2 {
					t.Errorf("%d %v", status, answer)
					return
				}
				ids[answer["id"]] = true
				if answer["scoped_key"] != nil {
					secrets++
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || secrets > 1 || secrets == 0 && away == 0 {
			t.Errorf("call %d made %d keys, and showed %d strings (%d answers did not say)", n, len(ids), secrets, away)
		}
	}
	if keys := c.any().act("GET", "/keys?owner=once", nil)["keys"].([]any); len(keys) != calls {
		t.Errorf("there are %d keys, want %d", len(keys), calls)
	}
}

// TestAWebhookIsToldOfEachEventOnceByWhicheverNodeLeads also ends the node that leads.
func TestAWebhookIsToldOfEachEventOnceByWhicheverNodeLeads(t *testing.T) {
	t.Parallel()
	in := newInbox(t, hookKey)
	c := newCluster(t, clusterOptions{nodes: 3, options: options{more: hookLine(in.URL, hookSecret, "")}})
	var ids []string
	mint := func() {
		for _, s := range c.nodes {
			id, _ := s.mint(object{"max_activations": 1})
			ids = append(ids, id)
		}
	}
	mint()
	c.nodes[0].eventually("what happened at each node is told", func() bool { return len(in.all()) == len(ids) })
	mint()
	leader := -1
	c.nodes[0].eventually("a node leads", func() bool { // none does while it is late to renew its session
		leader = slices.IndexFunc(c.nodes, func(s *server) bool {
			return strings.Contains(s.adminPage("/metrics"), "caddy_till_leads 1")
		})
		return leader >= 0
	})
	c.nodes[leader].kill9()
	c.nodes = slices.Delete(c.nodes, leader, leader+1)
	mint()
	c.nodes[0].eventually("another node tells what happens", func() bool { return len(in.all()) == len(ids) })
	for _, id := range ids {
		if got := in.names(id); !slices.Equal(got, []string{"key_created"}) {
			t.Errorf("of %s: %q", id, got)
		}
	}
}

// TestTheAuditLogOfCallsAtAllNodesIsOneChain lets all nodes act at once, and verifies an
// export without any server.
func TestTheAuditLogOfCallsAtAllNodesIsOneChain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 3})
	var acts atomic.Int64
	var wg sync.WaitGroup
	for _, s := range c.nodes {
		for range 3 {
			wg.Go(func() {
				for range 10 {
					id, _ := s.mint(object{"max_activations": 5})
					s.act("POST", "/keys/"+id+"/revoke", object{})
					acts.Add(2)
				}
			})
		}
	}
	wg.Wait()
	c.verified()
	var exports []string
	for _, s := range c.nodes {
		exports = append(exports, s.adminPage("/till/audit/export"))
		if out, err := s.command("till", "audit", "verify").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	entries := strings.Count(exports[0], `"key.create"`) + strings.Count(exports[0], `"key.revoke"`)
	if int64(entries) != acts.Load() || exports[1] != exports[0] || exports[2] != exports[0] {
		t.Errorf("the log has %d entries of %d acts, and exports of %d, %d and %d bytes", entries, acts.Load(), len(exports[0]), len(exports[1]), len(exports[2]))
	}
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(file, []byte(exports[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := c.nodes[2].command("till", "audit", "verify", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestKeysMintedAtOneNodeWorkAtAllAtOnce uses a string that the others were asked for
// before it existed.
func TestKeysMintedAtOneNodeWorkAtAllAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 3})
	for range 10 {
		_, key := c.any().mint(object{"max_activations": 3})
		for _, s := range c.nodes {
			if got := c.answerOn(s, key[:len(key)-4]+"AAAA"); got.status != http.StatusUnauthorized {
				t.Errorf("a string that is nobody's: %d", got.status)
			}
			if got := c.answerOn(s, key); got.status != http.StatusOK {
				t.Errorf("a key that was just minted: %d %s", got.status, got.refusal)
			}
		}
	}
}
