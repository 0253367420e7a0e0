package limiter_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// revokeAll revokes all keys of an owner as a job.
func (w *world) revokeAll(owner string) limiter.Job {
	w.t.Helper()
	j, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: owner}, false, "left")
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// mended waits until a job is done that had only keys left which could not be read.
func (w *world) mended(number int64) (limiter.Job, error) {
	for {
		j, err := w.Await(ctx, limiter.Operator, number)
		if err != nil || j.Done() {
			return j, err
		}
		time.Sleep(time.Second) // of the bubble's time: then it is tried again
	}
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
			_, err := deaf.Suspend(limiter.Operator, suspended.id)
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
			w := c.world(fmt.Sprint("node-", i))
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
		const n = 600
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

// TestWhatTheLeadingNodeCutsCountsOnceInAJobOfManySteps: it is told in each of them.
func TestWhatTheLeadingNodeCutsCountsOnceInAJobOfManySteps(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		running := leads.mint(ownedBy("anna"))
		if _, refusal := running.ask(); refusal != nil {
			t.Fatal(refusal)
		}
		for range 700 {
			others[0].mint(ownedBy("anna"))
		}
		j := others[0].revokeAll("anna")
		for _, w := range c.w {
			if done, err := w.Await(ctx, limiter.Operator, j.Number); err != nil || done.Revoked != 701 || done.Cut != 1 {
				t.Errorf("%s says %+v, %v", w.node, done, err)
			}
		}
	})
}

// meeting is a node that does something before each transaction that may touch any row, and
// after it, before that is answered.
type meeting struct {
	store.Shared
	before, after func()
}

// Update implements store.Store.
func (m *meeting) Update(fn func(store.Tx) error) error {
	if m.before != nil {
		m.before()
	}
	err := m.Shared.Update(fn)
	if m.after != nil {
		m.after()
	}
	return err
}

// TestANodeThatLearnsInItsOwnStepThatAJobIsDoneEndsWhatItHasStopped: another node has just
// led, and did the last step before it.
func TestANodeThatLearnsInItsOwnStepThatAJobIsDoneEndsWhatItHasStopped(t *testing.T) {
	withNodes(t, 0, func(t *testing.T, c *nodes) {
		var stores []*meeting
		for i := range 2 {
			w := c.world(fmt.Sprint("node-", i))
			s := &meeting{Shared: leading{c.Node(w.node)}}
			w.open(s)
			stores, c.w = append(stores, s), append(c.w, w)
		}
		first, late := c.w[0], c.w[1]
		k := late.mint(activations(2))
		k.use()
		g, refusal := k.ask() // the last one runs, so that its end is not recorded
		if refusal != nil {
			t.Fatal(refusal)
		}
		c.settle()
		lateIsReady := make(chan struct{})
		transactions := 0
		stores[0].before = func() {
			if transactions++; transactions == 2 { // the first records the job
				<-lateIsReady
			}
		}
		stores[1].before = func() {
			stores[1].before = nil
			close(lateIsReady)
			for done := false; !done; time.Sleep(time.Millisecond) {
				jobs, err := first.Jobs(limiter.Operator)
				if err != nil {
					t.Error(err)
					return
				}
				done = len(jobs) == 1 && jobs[0].Done()
			}
		}
		j, err := first.RevokeMany(limiter.Operator, limiter.Filter{Status: record.Exhausted}, false, "")
		if err != nil {
			t.Fatal(err)
		}
		if g.Cut() == nil {
			t.Fatal("the key did not match where it was used")
		}
		if done, err := late.Await(ctx, limiter.Operator, j.Number); err != nil || done.Revoked != 1 || done.Cut != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		c.settle()
		for _, w := range c.w {
			if v := k.on(w).view(); v.EndedStatus != record.Revoked {
				t.Errorf("%s says that the key is %s", w.node, v.Status)
			}
		}
	})
}

// TestAJobThatTheStoreIsSlowToRecordIsOneJob: its record is written again only if it was
// not written.
func TestAJobThatTheStoreIsSlowToRecordIsOneJob(t *testing.T) {
	withNodes(t, 0, func(t *testing.T, c *nodes) {
		w := c.world("node-a")
		s := &meeting{Shared: c.Node(w.node)}
		w.open(s)
		c.w = append(c.w, w)
		w.mint(ownedBy("anna"))
		c.settle()
		s.after = func() { s.after = nil; time.Sleep(2*patience + time.Second) }
		if _, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "anna"}, false, "left"); err == nil {
			t.Fatal("the store was not slow")
		}
		time.Sleep(4 * patience)
		synctest.Wait()
		jobs, err := w.Jobs(limiter.Operator)
		if err != nil || len(jobs) != 1 || !jobs[0].Done() || jobs[0].Revoked != 1 {
			t.Errorf("%+v, %v", jobs, err)
		}
	})
}

// TestAJobThatCannotGoOnHoldsUpNoOther: a record that it comes to is damaged, say.
func TestAJobThatCannotGoOnHoldsUpNoOther(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		leads, others := c.leader()
		damaged := others[0].mint(ownedBy("anna"))
		for range 300 {
			others[0].mint(ownedBy("ben"))
		}
		c.Write(t, func(tx store.Tx) error { return tx.Set(record.RecordKey(damaged.id), []byte("{")) })
		stuck, next := others[0].revokeAll("anna"), others[0].revokeAll("ben")
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if done, err := leads.Await(waiting, limiter.Operator, next.Number); err != nil || !done.Done() || done.Revoked != 300 {
			t.Errorf("%+v, %v", done, err)
		}
		j, err := leads.JobOf(limiter.Operator, fmt.Sprint(stuck.Number))
		for ; err == nil && j.Failure == "" && waiting.Err() == nil; j, err = leads.JobOf(limiter.Operator, fmt.Sprint(stuck.Number)) {
			time.Sleep(time.Second) // of the bubble's time: why it stays open is known once it is tried again
		}
		if err != nil || j.Done() || j.Failure == "" || !slices.Equal(j.Unread, []string{damaged.id}) {
			t.Errorf("the other one: %+v, %v", j, err)
		}
	})
}

// TestWhatIsMintedOnAnotherNodeAfterACountIsNotEnded: the clocks of two nodes agree only
// so far, and what a node stamped before the count may be committed after it.
func TestWhatIsMintedOnAnotherNodeAfterACountIsNotEnded(t *testing.T) {
	withClocks(t, func(t *testing.T, c *nodes) {
		counts, behind := c.w[0], c.w[1]
		counted := behind.mint(ownedBy("anna"))
		c.pass(5 * time.Second)
		f := limiter.Filter{Owner: "anna"}
		n, err := counts.CountMatches(ctx, limiter.Operator, f)
		if err != nil || n.Matched != 1 || n.Revocable != 1 {
			t.Fatalf("counted %+v, %v", n, err)
		}
		later := behind.mint(ownedBy("anna"))
		f.CreatedBefore = n.Before
		j, err := counts.RevokeMany(limiter.Operator, f, false, "left")
		if err != nil {
			t.Fatal(err)
		}
		if done := counts.await(t, j); done.Matched != n.Matched || done.Revoked != n.Revocable {
			t.Errorf("counted %+v, and ended %+v", n, done)
		}
		c.settle()
		if was, is := counted.on(behind).use(), later.on(behind).use(); was != record.CodeKeyRevoked || is != "" {
			t.Errorf("the key that was counted answers %q, the later one %q", was, is)
		}
	})
}
