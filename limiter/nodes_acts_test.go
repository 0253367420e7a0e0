package limiter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// leader is the node that does what one does for all, and the others.
func (c *nodes) leader() (leads *world, others []*world) {
	c.t.Helper()
	for _, w := range c.w {
		w.SweepDue() // lets one of them lead
	}
	all, err := c.w[0].Nodes()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, w := range c.w {
		if slices.ContainsFunc(all, func(n store.Node) bool { return n.Name == w.node && n.Leads }) {
			leads = w
		} else {
			others = append(others, w)
		}
	}
	if leads == nil {
		c.t.Fatalf("nobody leads: %+v", all)
	}
	return leads, others
}

// felt fails unless every node has followed what is durable.
func (c *nodes) felt(w *world) {
	c.t.Helper()
	if pending := w.Pending(); len(pending) > 0 {
		c.t.Fatalf("not felt on %q", pending)
	}
}

func TestNodesWriteOneAuditLog(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		first := a.mint(activations(1))
		second := b.mint(activations(1))
		if _, _, err := b.Revoke(ctx, limiter.Operator, first.id, ""); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Revoke(ctx, limiter.Operator, second.id, ""); err != nil {
			t.Fatal(err)
		}
		lines := strings.Join(b.auditLines(), "\n") + "\n"
		var heads [2]audit.Hash
		for i, w := range c.w { // whoever has written last
			v, err := w.AuditVerify(ctx, limiter.Operator)
			if err != nil || v.Entries != 4 {
				t.Errorf("%s verifies %+v, %v", w.node, v, err)
			}
			seq, head, err := w.AuditHead()
			if heads[i] = head; err != nil || seq != 4 {
				t.Errorf("%s says that it ends with entry %d, %v", w.node, seq, err)
			}
		}
		if _, err := audit.Verify(strings.NewReader(lines), &heads[1]); err != nil || heads[0] != heads[1] {
			t.Errorf("the heads are %s and %s, %v", heads[0], heads[1], err)
		}
	})
}

func TestANodePrunesTheAuditLogOfAll(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		for range 3 {
			others[0].mint(activations(1))
		}
		c.Advance(60 * 24 * time.Hour)
		c.settle()
		others[0].mint(activations(1))
		for _, w := range c.w {
			w.KeepAudit(30 * 24 * time.Hour)
			w.SweepAdmin()
		}
		others[0].mint(activations(1))
		leads.mint(activations(1))
		for _, w := range c.w {
			v, err := w.AuditVerify(ctx, limiter.Operator)
			if err != nil || v.First != 4 || v.Entries != 4 {
				t.Errorf("%s verifies %+v, %v", w.node, v, err)
			}
		}
		var prunes int
		for _, line := range leads.auditLines() {
			prunes += strings.Count(line, audit.ActAuditPrune)
		}
		if prunes != 1 {
			t.Errorf("it was pruned %d times", prunes)
		}
	})
}

// sums holds what the nodes say of all keys against the accounts in the store.
func (c *nodes) sums() {
	c.t.Helper()
	c.sweep() // nothing is reserved and unused
	var want record.Amounts
	keys := make(map[record.Status]int64)
	err := c.View(func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceKeys), nil, false, func(_, value []byte) (bool, error) {
			key, err := record.DecodeKey(value)
			if err != nil {
				return false, err
			}
			_, acct, err := record.ReadKey(r, key.ID)
			want.Add(acct.Counted())
			keys[key.Recorded()]++
			return true, err
		})
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, w := range c.w {
		s := w.Stats()
		if got := s.Used.Minus(s.Forgotten); s.Unread != nil || got != want {
			c.t.Errorf("%s says that %v was used, and the accounts %v; %v", w.node, got, want, s.Unread)
		}
		for status, n := range s.Keys {
			if n != keys[status] {
				c.t.Errorf("%s says that %d keys are %s, and there are %d", w.node, n, status, keys[status])
			}
		}
	}
}

func TestTheSumOverKeysIsTheSameOnAllNodes(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		var keys []*key
		for i, w := range c.w {
			keys = append(keys, w.mint(func(k *record.Key) {
				k.Limit[record.Activations], k.Limit[record.Tokens] = 50, 1000
				if i == 2 {
					k.Limit = record.NoLimits()
				}
			}))
		}
		for _, k := range keys {
			for i, w := range c.w {
				for range 3 + i {
					g, refusal := k.on(w).ask(bound(record.Tokens, 10))
					if refusal != nil {
						t.Fatal(refusal)
					}
					g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 7})
				}
			}
		}
		c.sums()
		if n := c.w[1].Stats().Used[record.Activations]; n != 36 {
			t.Errorf("%d activations in all, want 36", n)
		}
		c.restartKilled(c.w[0], true)
		c.sums()
		c.restartClean(c.w[1])
		c.sums()
		if _, _, err := c.w[0].Revoke(ctx, limiter.Operator, keys[0].id, ""); err != nil {
			t.Fatal(err)
		}
		before := c.w[2].Stats()
		if err := c.w[2].Forget(ctx, limiter.Operator, keys[0].id); err != nil {
			t.Fatal(err)
		}
		c.sums()
		after := c.w[1].Stats()
		if after.Used != before.Used || after.Forgotten == before.Forgotten || after.Keys[record.Revoked] != 0 {
			t.Errorf("before a key was forgotten: %+v, after: %+v", before, after)
		}
		c.Advance(2 * time.Minute)
		c.settle()
		for _, w := range c.w {
			w.SweepAdmin() // other nodes have heard of it by now
		}
		if left, err := c.w[2].Left(keys[0].id); err != nil || len(left) > 0 {
			t.Errorf("of the key is left: %q, %v", left, err)
		}
		// Keys that one node mints and another ends.
		for i := range 6 {
			k := c.w[i%3].mint(activations(1))
			if _, _, err := c.w[(i+1)%3].Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
				t.Fatal(err)
			}
		}
		c.sums()
	})
}

func TestSumsThatCannotBeReadAreThoseOfBefore(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		c.w[0].mint(activations(1))
		before := c.w[1].Stats()
		c.Cut(c.w[1].node)
		s := c.w[1].Stats()
		if !errors.Is(s.Unread, store.ErrUnavailable) || s.Keys[record.Active] != before.Keys[record.Active] || before.Keys[record.Active] != 1 {
			t.Errorf("%+v, before %+v", s, before)
		}
		c.Heal(c.w[1].node)
	})
}

func TestACallIsDoneOnceWhicheverNodeGetsIt(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		spec := func() *record.Key {
			return &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
		}
		call := func(w *world, text string, content byte) error {
			_, err := w.tryMint(limiter.Operator.Once(text, [32]byte{content}), spec())
			return err
		}
		errs := make(chan error, 2)
		for _, w := range c.w {
			go func() { errs <- call(w, "it", 1) }()
		}
		first, second := <-errs, <-errs
		if first != nil {
			first, second = second, first
		}
		if first != nil || !errors.Is(second, limiter.ErrReplayed) {
			t.Errorf("two calls at once are answered %v and %v", first, second)
		}
		for _, w := range c.w {
			if err := call(w, "it", 2); !errors.Is(err, limiter.ErrReused) {
				t.Errorf("another call on %s is answered %v", w.node, err)
			}
			replay, known, err := w.Replay(ctx, limiter.Operator.Once("it", [32]byte{1}))
			if err != nil || !known || replay.Key == nil {
				t.Errorf("%s knows of it: %v, %+v, %v", w.node, known, replay, err)
			}
			if n, err := w.Onces(); err != nil || n != 1 {
				t.Errorf("%s counts %d, %v", w.node, n, err)
			}
		}
		if err := call(c.w[1], "more", 1); err != nil {
			t.Fatal(err)
		}
		for _, w := range c.w {
			if n, err := w.Onces(); err != nil || n != 2 {
				t.Errorf("%s counts %d, %v", w.node, n, err)
			}
		}
		// Both forget it, at once.
		c.Advance(25 * time.Hour)
		c.settle()
		for _, w := range c.w {
			if err := w.PruneOnces(); err != nil {
				t.Error(err)
			}
			if n, err := w.Onces(); err != nil || n != 0 {
				t.Errorf("a day later, %s counts %d, %v", w.node, n, err)
			}
		}
	})
}

func TestIdempotencyKeysAreBoundedOverAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		if err := c.w[0].WriteCommon("onces", "99999"); err != nil {
			t.Fatal(err)
		}
		call := func(w *world, text string) error {
			_, err := w.tryMint(limiter.Operator.Once(text, [32]byte{1}), &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()})
			return err
		}
		if err := call(c.w[1], "the last"); err != nil {
			t.Error(err)
		}
		for _, w := range c.w {
			var full *record.InvalidError
			if err := call(w, "one more"); !errors.As(err, &full) {
				t.Errorf("%s answers %v", w.node, err)
			}
		}
	})
}

// revokeAll revokes all keys of an owner as a job.
func (w *world) revokeAll(owner string) limiter.Job {
	w.t.Helper()
	j, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: owner}, false, "left")
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

func ownedBy(owner string) func(*record.Key) { return func(k *record.Key) { k.Owner = owner } }

func TestAJobIsFeltOnAllNodesAndDoneByOne(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		away, other := others[0], others[1]
		running := away.mint(ownedBy("anna"))
		var told record.Code
		if _, refusal := running.on(other).ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { told = r.Code } }); refusal != nil {
			t.Fatal(refusal)
		}
		var all []*key
		for i := range 700 {
			all = append(all, c.w[i%3].mint(ownedBy("anna")))
		}
		spared := leads.mint(ownedBy("ben"))
		j := away.revokeAll("anna")
		c.felt(away)
		if told != record.CodeKeyRevoked {
			t.Errorf("the request on another node was told %q", told)
		}
		for _, k := range []*key{running, all[0], all[350], all[699]} {
			for _, w := range c.w {
				if code := k.on(w).use(); code != record.CodeKeyRevoked {
					t.Errorf("%s answers %q", w.node, code)
				}
			}
		}
		later := other.mint(ownedBy("anna")) // minted since
		for _, w := range c.w {
			done, err := w.Await(ctx, limiter.Operator, j.Number)
			if err != nil || !done.Done() || done.Revoked != 701 || done.Matched != 701 || done.Already != 0 {
				t.Errorf("%s says %+v, %v", w.node, done, err)
			}
		}
		for _, k := range []*key{spared, later} {
			if code := k.on(leads).use(); code != "" {
				t.Errorf("a key that did not match is refused with %s", code)
			}
		}
		synctest.Wait()
		for _, w := range c.w {
			jobs, err := w.Jobs(limiter.Operator)
			if err != nil || len(jobs) != 1 || jobs[0].Cut != 1 || jobs[0].Revoked != 701 {
				t.Errorf("%s lists %+v, %v", w.node, jobs, err)
			}
			if w.Stats().Keys[record.Revoked] != 701 {
				t.Errorf("%s counts %v", w.node, w.Stats().Keys)
			}
		}
		for id, n := range revocations(t, leads) {
			if n != 1 {
				t.Errorf("key %s was revoked %d times", id, n)
			}
		}
	})
}

// revocations counts the entries of the audit log that say that a key was revoked.
func revocations(t *testing.T, w *world) map[string]int {
	t.Helper()
	all := make(map[string]int)
	for _, line := range w.auditLines() {
		e, err := limiter.ParseAuditLine([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if e["action"] == audit.ActKeyRevoke {
			all[e["key"].(string)]++
		}
	}
	return all
}

// TestAChangeOnANodeThatHasNotHeardOfAJobEndsTheKey: otherwise the record would count
// as judged, and the key would live on.
func TestAChangeOnANodeThatHasNotHeardOfAJobEndsTheKey(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		asked, deaf := others[0], others[1]
		changed := deaf.mint(ownedBy("anna"))
		suspended := deaf.mint(delegating(ownedBy("anna")))
		other := deaf.mint(ownedBy("ben"))
		c.felt(deaf)
		c.Pause(leads.node) // so nobody does the job
		c.Lose(deaf.node, true)
		done := make(chan limiter.Job)
		go func() { done <- asked.revokeAll("anna") }()
		synctest.Wait() // it is durable, and waits for the others
		acts := make(chan error, 3)
		for _, k := range []*key{changed, other} {
			go func() {
				_, err := deaf.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { k.Name = "another"; return nil })
				acts <- err
			}()
		}
		go func() {
			_, err := deaf.Suspend(ctx, limiter.Operator, suspended.id)
			acts <- err
		}()
		synctest.Wait() // they are, too
		c.Lose(deaf.node, false)
		c.Resume(leads.node)
		for range cap(acts) {
			if err := <-acts; err != nil {
				t.Error(err)
			}
		}
		j := <-done
		for _, w := range c.w {
			if done, err := w.Await(ctx, limiter.Operator, j.Number); err != nil || done.Revoked != 2 || done.Matched != 2 {
				t.Errorf("%s says %+v, %v", w.node, done, err)
			}
		}
		c.felt(leads)
		for _, w := range c.w {
			for _, k := range []*key{changed, suspended} {
				if code := k.on(w).use(); code != record.CodeKeyRevoked {
					t.Errorf("%s answers %q", w.node, code)
				}
			}
			if code := other.on(w).use(); code != "" {
				t.Errorf("a key of another owner is refused on %s with %s", w.node, code)
			}
		}
		if v := changed.on(deaf).view(); v.Name != "another" {
			t.Errorf("the change was lost: %+v", v)
		}
	})
}

// leading is a node that takes itself for the one that does what one does for all, as
// two may for a moment.
type leading struct{ store.Shared }

func (leading) Leads() bool { return true }

func TestAJobThatTwoNodesDoAtOnceCountsEachKeyOnce(t *testing.T) {
	withNodes(t, 0, func(t *testing.T, c *nodes) {
		for i := range 2 {
			w := &world{t: t, cluster: c.Cluster, node: fmt.Sprint("node-", i), disk: storetest.NewDisk(), shadow: "shadow"}
			w.files = w.disk.Files()
			w.open(leading{c.Node(w.node)})
			c.w = append(c.w, w)
		}
		for i := range 900 {
			k := c.w[i%2].mint(ownedBy("anna"))
			if i%3 != 0 {
				continue
			}
			if _, _, err := c.w[i%2].Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
				t.Fatal(err)
			}
		}
		j := c.w[0].revokeAll("anna")
		for _, w := range c.w {
			if done, err := w.Await(ctx, limiter.Operator, j.Number); err != nil || done.Revoked != 600 || done.Already != 300 || done.Matched != 900 {
				t.Errorf("%s says %+v, %v", w.node, done, err)
			}
		}
	})
}

func TestAJobGoesOnWhenTheNodeThatDidItDies(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		const n = 1500
		for i := range n {
			others[i%2].mint(ownedBy("anna"))
		}
		j := others[0].revokeAll("anna")
		for jobs := []limiter.Job(nil); len(jobs) == 0 || jobs[0].Revoked < 256; { // it has begun
			var err error
			if jobs, err = others[0].Jobs(limiter.Operator); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		c.restartKilled(leads, true)
		for _, w := range c.w {
			done, err := w.Await(ctx, limiter.Operator, j.Number)
			if err != nil || !done.Done() || done.Revoked != n {
				t.Errorf("%s says %+v, %v", w.node, done, err)
			}
		}
		all := revocations(t, leads)
		for id, times := range all {
			if times != 1 {
				t.Errorf("key %s was revoked %d times", id, times)
			}
		}
		if len(all) != n {
			t.Errorf("%d keys were revoked", len(all))
		}
		c.sums()
	})
}

// TestAJobEndsWhatOnlyAnotherNodeKnowsToMatch: the node that does the job does not see
// how the key was used on another one.
func TestAJobEndsWhatOnlyAnotherNodeKnowsToMatch(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		k := others[0].mint(activations(2))
		k.use()
		g, refusal := k.ask() // the last one runs, so that its end is not recorded
		if refusal != nil {
			t.Fatal(refusal)
		}
		j, err := others[0].RevokeMany(limiter.Operator, limiter.Filter{Status: record.Exhausted}, false, "")
		if err != nil {
			t.Fatal(err)
		}
		if g.Cut() == nil {
			t.Fatal("the key did not match where it was used")
		}
		g.Settle(record.Amounts{record.Activations: 1})
		if _, err := leads.Await(ctx, limiter.Operator, j.Number); err != nil {
			t.Fatal(err)
		}
		if done, err := others[0].Await(ctx, limiter.Operator, j.Number); err != nil || done.Revoked != 1 || done.Cut != 1 {
			t.Fatalf("%+v, %v", done, err)
		}
		c.felt(others[0])
		for _, w := range c.w {
			if v := k.on(w).view(); v.EndedStatus != record.Revoked {
				t.Errorf("%s says that the key is %s", w.node, v.Status)
			}
		}
	})
}

// hooked gives every node a webhook.
func hooked(w *world) { w.hooks = []event.Hook{{URL: hookURL}} }

func TestAMessageIsDeliveredByOneNodeForAll(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		for _, w := range c.w {
			w.mint(activations(1))
			w.mint(activations(1))
		}
		for _, w := range c.w {
			if n := w.pending(); n != 4 {
				t.Errorf("%s says that %d messages wait", w.node, n)
			}
		}
		if due, next, err := others[0].Outbox().Due(hookURL, 10); err != nil || len(due) != 0 || next <= 0 || next > time.Second {
			t.Errorf("a node that does not lead gets %v, and shall look again in %s, %v", due, next, err)
		}
		_, messages := leads.waiting()
		seen := make(map[string]bool)
		for i, m := range messages {
			seen[m.ID] = true
			if i > 0 && !messages[i-1].At.Before(m.At) {
				t.Errorf("message %d is of %s, the one before of %s", i, m.At, messages[i-1].At)
			}
		}
		if len(seen) != 4 {
			t.Fatalf("%d different messages of %d", len(seen), len(messages))
		}
		if err := leads.Outbox().Forget(hookURL, messages[0]); err != nil {
			t.Fatal(err)
		}
		if err := others[0].Outbox().Forget(hookURL, messages[0]); err != nil { // it led a moment ago
			t.Fatal(err)
		}
		for _, w := range c.w {
			if n := w.pending(); n != 3 {
				t.Errorf("after one was delivered, %s says that %d wait", w.node, n)
			}
		}
		c.restartKilled(leads, false)
		leads, _ = c.leader()
		if all, _ := leads.waiting(); len(all) != 3 {
			t.Errorf("another node finds %q", all)
		}
	}, hooked)
}

func TestAThresholdThatNodesCrossTogetherIsToldOnce(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		leads, _ := c.leader()
		var feeds []*event.Feed
		for _, w := range c.w {
			f, err := w.Subscribe(limiter.Operator)
			if err != nil {
				t.Fatal(err)
			}
			feeds = append(feeds, f)
		}
		k := leads.mint(activations(99))
		told := func() (percents []string) {
			c.sweep()
			_, messages := leads.waiting()
			for _, m := range messages {
				if m.Event == event.KeyThreshold {
					_, rest, _ := strings.Cut(string(m.Payload), `"percent":`)
					percent, _, _ := strings.Cut(rest, ",")
					percents = append(percents, percent)
				}
			}
			return percents
		}
		use := func(times int) { // on each
			for range times {
				for _, w := range c.w {
					if code := k.on(w).use(); code != "" {
						t.Fatalf("%s answers %q", w.node, code)
					}
				}
			}
		}
		for _, step := range []struct {
			each int
			want []string
		}{{16, nil}, {4, []string{"50"}}, {8, []string{"50", "80"}}} { // 48, 60 and 84 of 99
			use(step.each)
			if got := told(); !slices.Equal(got, step.want) {
				t.Errorf("after %d more on each, %q were told, want %q", step.each, got, step.want)
			}
		}
		for _, f := range feeds {
			n := 0
			for _, name := range heardOn(t, f) {
				if name == "key_threshold " {
					n++
				}
			}
			if n != 2 {
				t.Errorf("a feed tells of %d", n)
			}
		}
		if _, err := c.w[2].GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 101}); err != nil {
			t.Fatal(err)
		}
		c.felt(c.w[2])
		use(6) // 102 of 200
		if got, want := told(), []string{"50", "80", "50"}; !slices.Equal(got, want) {
			t.Errorf("of the new limit were told %q, want %q", got, want)
		}
	}, hooked)
}

func TestMessagesAreBoundedOverAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		others[0].mint(activations(1))
		v := common(t, c, "outbox")
		if !strings.Contains(v, `:1}`) {
			t.Fatalf("the nodes have in common %s", v)
		}
		if err := leads.WriteCommon("outbox", strings.Replace(v, `:1}`, `:9999}`, 1)); err != nil {
			t.Fatal(err)
		}
		others[0].mint(activations(1))
		others[0].mint(activations(1))
		leads.mint(activations(1))
		for _, w := range c.w {
			hooks, err := w.ListHooks(ctx, limiter.Operator)
			if err != nil || hooks[0].Pending != 10_000 {
				t.Errorf("%s says %+v, %v", w.node, hooks, err)
			}
		}
		if all, _ := leads.waiting(); len(all) != 2 {
			t.Errorf("%d messages", len(all))
		}
	}, hooked)
}

// common is what nodes have in common.
func common(t *testing.T, c *nodes, what string) (text string) {
	t.Helper()
	err := c.View(func(r store.Reader) error {
		v, err := r.Get(record.CommonKey(what))
		text = string(v)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAMessageForAWebhookThatOnlyAnotherNodeKnowsWaits(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		const newer = "https://newer.example.com/"
		if err := others[0].Outbox().SetHooks([]event.Hook{{URL: hookURL}, {URL: newer}}); err != nil {
			t.Fatal(err)
		}
		others[0].mint(activations(1))
		if err := leads.Outbox().SetHooks([]event.Hook{{URL: hookURL}}); err != nil { // an older configuration starts again
			t.Fatal(err)
		}
		leads.SweepAdmin()
		if due, _, err := leads.Outbox().Due(newer, 10); err != nil || len(due) != 1 {
			t.Errorf("%d messages wait, %v", len(due), err)
		}
		c.Advance(4 * 24 * time.Hour)
		c.settle()
		leads.SweepAdmin()
		if due, _, err := leads.Outbox().Due(newer, 10); err != nil || len(due) != 0 {
			t.Errorf("days later %d messages wait, %v", len(due), err)
		}
		if all, _ := leads.waiting(); len(all) != 1 {
			t.Errorf("of the webhook that all know, %q wait", all)
		}
		hooks, err := others[0].ListHooks(ctx, limiter.Operator)
		if err != nil || hooks[0].Pending != 1 || hooks[1].Pending != 0 {
			t.Errorf("they are counted as %+v, %v", hooks, err)
		}
	}, hooked)
}

func TestAnAdminTokenWorksOnAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		text, by := a.hire(limiter.Operator, "anna", record.OperatorRole)
		c.felt(a)
		c.Advance(time.Hour)
		c.settle()
		if caller, err := b.Authenticate(ctx, text, "192.0.2.1"); err != nil || caller.Token != by.Token {
			t.Fatalf("the other node says %+v, %v", caller, err)
		}
		used := b.Now()
		b.SweepAdmin()
		c.felt(b)
		a.SweepAdmin() // it was used there an hour before
		for _, w := range c.w {
			all, err := w.ListTokens(ctx, limiter.Operator)
			if err != nil || len(all) != 1 || !all[0].LastUsedAt.Equal(used) {
				t.Errorf("%s lists %+v, %v; it was used at %s", w.node, all, err, used)
			}
		}
		if _, err := b.RevokeToken(ctx, limiter.Operator, by.Token); err != nil {
			t.Fatal(err)
		}
		c.felt(b)
		if _, err := a.Authenticate(ctx, text, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
			t.Errorf("a token that another node has revoked is answered %v", err)
		}
	})
}

func TestANameStandsForOneTokenOverAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		why := []string{"no other token has", "must not look like that of another"}
		for i, names := range [][2]string{{"anna", "anna"}, {"cope", "\u0441\u043e\u0440\u0435"}} {
			for _, w := range c.w {
				c.Lose(w.node, true) // neither has heard of the other's
			}
			errs := make(chan error, 2)
			for n, w := range c.w {
				_, lookup, err := token.MintAdmin()
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					_, err := w.CreateToken(ctx, limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: names[n], Role: record.OperatorRole})
					errs <- err
				}()
			}
			var taken *record.InvalidError
			first, second := <-errs, <-errs
			if first != nil {
				first, second = second, first
			}
			if first != nil || !errors.As(second, &taken) || !strings.Contains(second.Error(), why[i]) {
				t.Errorf("%q: answered %v and %v", names, first, second)
			}
			for _, w := range c.w {
				c.Lose(w.node, false)
			}
			c.felt(c.w[0])
			c.felt(c.w[1])
			for _, w := range c.w {
				if all, err := w.ListTokens(ctx, limiter.Operator); err != nil || len(all) != i+1 {
					t.Errorf("%s lists %+v, %v", w.node, all, err)
				}
			}
		}
	})
}

// lockable gives every node a lockdown's switch with a file of its own.
func lockable(w *world) {
	w.dir = w.t.TempDir()
	w.lockdown = newLockdown(filepath.Join(w.dir, "lockdown"))
	w.lockdown.Recall()
}

// locked fails unless the key is refused, or not, on every node.
func (c *nodes) locked(k *key, locked bool) {
	c.t.Helper()
	want := record.Code("")
	if locked {
		want = record.CodeLockedDown
	}
	for _, w := range c.w {
		if code := k.on(w).use(); code != want {
			c.t.Errorf("%s answers %q, want %q", w.node, code, want)
		}
	}
}

func (c *nodes) lock(w *world, reason string) limiter.LockedDown {
	c.t.Helper()
	s, _, err := w.lockdown.Set(limiter.Operator, reason, w.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func TestALockdownIsFeltOnAllNodesAndLiftedByAny(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		k := a.mint(activations(100))
		var told record.Code
		if _, refusal := k.on(b).ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { told = r.Code } }); refusal != nil {
			t.Fatal(refusal)
		}
		if s := c.lock(a, "drill"); !s.Durable {
			t.Errorf("it is %+v", s)
		}
		c.felt(a)
		if told != record.CodeLockedDown {
			t.Errorf("the request on another node was told %q", told)
		}
		c.locked(k, true)
		s := b.lockdown.State()
		if s == nil || s.Reason != "drill" || s.By != "operator" || !s.Durable || !s.Since.Equal(a.lockdown.State().Since) {
			t.Errorf("another node says %+v", s)
		}
		c.restartKilled(c.w[2], true)
		c.locked(k, true) // also on one that has just started
		c.lock(b, "still")
		c.felt(b)
		if now := a.lockdown.State(); now.Reason != "still" || !now.Since.Equal(s.Since) {
			t.Errorf("set again by another node: %+v", now)
		}
		if err := c.w[2].lockdown.Lift(limiter.Operator); err != nil {
			t.Fatal(err)
		}
		c.felt(c.w[2])
		c.locked(k, false)
		for _, w := range c.w {
			if files, err := os.ReadDir(w.dir); err != nil || len(files) != 0 {
				t.Errorf("%s keeps %v, %v", w.node, files, err)
			}
		}
		if v := common(t, c, "lockdown"); v != "" {
			t.Errorf("the store says %s", v)
		}
		log := strings.Join(a.auditLines(), "\n")
		if set, lifted := strings.Count(log, limiter.ActLockdownSet), strings.Count(log, limiter.ActLockdownLift); set != 2 || lifted != 1 {
			t.Errorf("the audit log says that it was set %d times, and lifted %d times", set, lifted)
		}
		if err := a.lockdown.Lift(limiter.Operator); !errors.Is(err, limiter.ErrNotLocked) {
			t.Errorf("lifting it again: %v", err)
		}
	}, lockable)
}

func TestALockdownThatWasSetWithoutTheDatabaseReachesAllLater(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		k := a.mint(activations(100))
		c.locked(k, false)
		c.Cut(a.node)
		if s := c.lock(a, "alone"); s.Durable {
			t.Errorf("it says that all are told: %+v", s)
		}
		if code := k.use(); code != record.CodeLockedDown {
			t.Errorf("where it was set the answer is %q", code)
		}
		if code := k.on(b).use(); code != "" {
			t.Fatalf("the other node cannot know, and answers %q", code)
		}
		if err := a.lockdown.Lift(limiter.Operator); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("lifting it without the database: %v", err)
		}
		if a.lockdown.State() == nil {
			t.Error("it was lifted on one node only")
		}
		c.Advance(time.Minute) // so that it reads everything again afterwards
		c.Heal(a.node)
		time.Sleep(4 * time.Second) // the connection comes back
		synctest.Wait()
		if a.lockdown.State() == nil {
			t.Error("a store that does not know of it yet has lifted it")
		}
		time.Sleep(20 * time.Second) // it is tried again by itself
		synctest.Wait()
		c.felt(a)
		c.locked(k, true)
		if s := a.lockdown.State(); !s.Durable {
			t.Errorf("it is still %+v", s)
		}
		if err := b.lockdown.Lift(limiter.Operator); err != nil {
			t.Fatal(err)
		}
		c.felt(b)
		c.locked(k, false)
	}, lockable)
}

func TestANodeThatStartsBelievesTheStoreOfALockdownAndNotItsFile(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		k := a.mint(activations(100))
		c.lock(a, "drill")
		c.felt(a)
		c.Kill(a.node) // with its file
		a.Abandon()
		c.Advance(11 * time.Second)
		if err := b.lockdown.Lift(limiter.Operator); err != nil {
			t.Fatal(err)
		}
		a.lockdown = newLockdown(filepath.Join(a.dir, "lockdown"))
		if a.lockdown.Recall(); a.lockdown.State() == nil {
			t.Fatal("the file is gone")
		}
		c.restartKilled(a, true)
		c.locked(k, false)
		if files, err := os.ReadDir(a.dir); err != nil || len(files) != 0 {
			t.Errorf("it keeps %v, %v", files, err)
		}
	}, lockable)
}

func TestTheClockIsTheDatabasesAndRepairedForAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		a.mint(activations(1))
		if err := c.View(func(r store.Reader) error {
			_, err := r.Get(record.MetaClock)
			return err
		}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the time was written: %v", err)
		}
		for _, w := range c.w {
			c.Skew(w.node, -time.Hour)
			if off := w.Stats().ClockOff; off > -time.Hour+time.Minute {
				t.Errorf("%s says that it is %s off", w.node, off)
			}
		}
		if _, err := a.RepairClock(ctx, limiter.Operator); err != nil {
			t.Fatal(err)
		}
		c.felt(a)
		for _, w := range c.w {
			if off := w.Stats().ClockOff; off != 0 {
				t.Errorf("after the repair %s says that it is %s off", w.node, off)
			}
		}
		b.mint(activations(1))
		var repairs int
		for _, line := range b.auditLines() {
			repairs += strings.Count(line, audit.ActClockRepair)
		}
		if repairs != 1 {
			t.Errorf("the audit log says that it was repaired %d times", repairs)
		}
	})
}

// heard are the names of the events that a feed has, in order.
func heardOn(t *testing.T, f *event.Feed) (names []string) {
	t.Helper()
	for {
		e, err := f.Next(context.Background(), time.Millisecond)
		if err != nil {
			return append(names, err.Error())
		}
		if e == nil {
			return names
		}
		about := ""
		if e.Key != nil {
			about = " " + e.Key.Name
		}
		names = append(names, string(e.Name)+about)
	}
}

func TestAFeedTellsWhatHappensOnAnyNode(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		feeds := make([]*event.Feed, 2)
		for i, w := range c.w {
			var err error
			if feeds[i], err = w.Subscribe(limiter.Operator); err != nil {
				t.Fatal(err)
			}
		}
		k := a.mint(func(k *record.Key) { k.Name, k.Limit[record.Activations] = "x", 2 })
		c.felt(a)
		k.on(b).use()
		if _, _, err := b.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		c.felt(b)
		want := []string{"key_created x", "key_threshold x", "key_revoked x"}
		for i, f := range feeds {
			if got := heardOn(t, f); !slices.Equal(got, want) {
				t.Errorf("%s tells %q, want %q", c.w[i].node, got, want)
			}
		}
		// What is told is removed again.
		c.Advance(2 * time.Minute)
		c.settle()
		for _, w := range c.w {
			w.SweepAdmin()
		}
		if err := c.View(func(r store.Reader) error {
			return r.Scan(record.CommonKey("events/"), nil, false, func(key, _ []byte) (bool, error) {
				return false, fmt.Errorf("the store keeps %q", bytes.ToValidUTF8(key, []byte("?")))
			})
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestAFeedEndsWhereItCannotTellEverything(t *testing.T) {
	for name, act := range map[string]func(c *nodes, leads, reads *world){
		"too much at once": func(c *nodes, leads, _ *world) {
			for range 100 {
				leads.mint(ownedBy("anna"))
			}
			c.felt(leads)
			leads.revokeAll("anna")
		},
		"out of touch": func(c *nodes, leads, reads *world) {
			c.Cut(reads.node)
			c.Advance(time.Minute)
			leads.mint(ownedBy("anna"))
			c.Heal(reads.node)
			c.Advance(4 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				leads, others := c.leader()
				f, err := others[0].Subscribe(limiter.Operator)
				if err != nil {
					t.Fatal(err)
				}
				act(c, leads, others[0])
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if got := heardOn(t, f); !slices.Contains(got, event.ErrFeedClosed.Error()) {
					t.Errorf("it tells %q", got)
				}
			})
		})
	}
}
