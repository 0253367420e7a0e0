package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// await is the job at its end.
func (w *world) await(t interface{ Fatalf(string, ...any) }, j limiter.Job) limiter.Job {
	limit, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done, err := w.Await(limit, limiter.Operator, j.Number)
	if err != nil || !done.Done() {
		t.Fatalf("job %+v: %v", done, err)
	}
	return done
}

func owned(name string, n int64) func(*record.Key) {
	return func(k *record.Key) { k.Owner, k.Limit[record.Activations] = name, n }
}

func TestRevokeManyRefusesAtOnceWhatMatchesAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ann, bob []*key
	for range 300 {
		ann = append(ann, w.mint(owned("ann", 5)))
	}
	for range 5 {
		bob = append(bob, w.mint(owned("bob", 5)))
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, ann[7].id, "before"); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(20 * time.Minute)
	w.SweepActive()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	w.SweepIdle() // nothing is in memory
	running, refusal := ann[3].ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	f := limiter.Filter{Owner: "ann"}
	n, err := w.CountMatches(ctx, limiter.Operator, f)
	if err != nil || n.Matched != 300 || n.Revocable != 299 {
		t.Errorf("counted %+v, %v", n, err)
	}
	if code := ann[4].use(); code != "" {
		t.Errorf("counting has stopped a key: %q", code)
	}

	if err := w.Ping(ctx); err != nil { // nothing else is to be written
		t.Fatal(err)
	}

	// The disk takes its time for everything after the job's own record.
	var hold func()
	commits, gate := w.disk.Commits(), make(chan struct{})
	w.disk.BeforeCommit(func(n int) {
		if n > commits+1 {
			<-gate
		}
	})
	hold = func() { close(gate) }
	j, err := w.RevokeMany(limiter.Operator, f, false, "ann left")
	if err != nil {
		t.Fatal(err)
	}
	if j.Cut != 1 || running.Cut() == nil {
		t.Errorf("%d cut", j.Cut)
	}
	for i, k := range ann {
		if code := k.use(); code != record.CodeKeyRevoked {
			t.Fatalf("key %d of ann, before its end is durable: %q", i, code)
		}
	}
	page, err := w.List(ctx, limiter.Operator, limiter.Filter{Owner: "ann", Status: record.Active})
	if err != nil || len(page.Keys) != 0 {
		t.Errorf("%d of ann's keys are listed as active, %v", len(page.Keys), err)
	}
	hold()
	w.disk.BeforeCommit(nil)
	late := w.mint(owned("ann", 5))
	done := w.await(t, j)
	if done.Matched != 300 || done.Revoked != 299 || done.Already != 1 {
		t.Errorf("%+v", done)
	}
	for _, k := range append(bob, late) {
		if code := k.use(); code != "" {
			t.Errorf("a key that did not match: %q", code)
		}
	}
	w.agree(t)
	w.restart()
	for _, k := range ann {
		if v := k.view(); v.Status != record.Revoked || v.EndedReason != "ann left" && k != ann[7] {
			t.Fatalf("after a restart: %s, %q", v.Status, v.EndedReason)
		}
	}
	if code := late.use(); code != "" {
		t.Errorf("a key minted after the call: %q", code)
	}
	if log := w.acts(ann[0].id); log != "key.create key.revoke" {
		t.Errorf("the log says %s", log)
	}
	jobs, err := w.Jobs(limiter.Operator)
	if err != nil || len(jobs) != 1 || !jobs[0].Done() || jobs[0].Revoked != 299 {
		t.Errorf("jobs: %+v, %v", jobs, err)
	}
}

func TestRevokeManyNeedsAFilterAndAPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	team := record.NewRole()
	team.Permissions = []record.Permission{record.KeysRevoke, record.KeysRead}
	w.roles = map[string]record.Role{"team": team, "ci": record.NewRole()}
	w.restart()
	k := w.mint(activations(5))
	var invalid *record.InvalidError
	for _, f := range []limiter.Filter{{}, {Query: "key_"}, {Sort: "created"}} {
		if _, err := w.RevokeMany(limiter.Operator, f, false, ""); !errors.As(err, &invalid) || !strings.Contains(err.Error(), `"all": true`) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for _, by := range []limiter.Caller{
		{Name: "x", Role: "ci", Token: "t"}, {Name: "y", Role: "gone", Token: "t"}, limiter.Holder(&record.Key{ID: k.id}, ""),
	} {
		if _, err := w.RevokeMany(by, limiter.Filter{Upstream: "openai"}, false, ""); !errors.Is(err, limiter.ErrForbidden) {
			t.Errorf("by %s: %v", by.Name, err)
		}
	}
	j, err := w.RevokeMany(limiter.Caller{Name: "z", Role: "team", Token: "t"}, limiter.Filter{}, true, "")
	if err != nil {
		t.Fatal(err)
	}
	if done := w.await(t, j); done.Matched != 0 {
		t.Errorf("a caller revoked what it does not see: %+v", done)
	}
	if code := k.use(); code != "" {
		t.Errorf("refused with %q", code)
	}
	j, err = w.RevokeMany(limiter.Operator, limiter.Filter{}, true, "")
	if err != nil {
		t.Fatal(err)
	}
	if done := w.await(t, j); done.Revoked != 1 {
		t.Errorf("all: %+v", done)
	}
}

func TestRevokeManyOnAFullDiskHoldsAndIsDurableLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, other := w.mint(owned("ann", 500)), w.mint(owned("bob", 500))
	k.use()
	w.disk.Fill()
	if _, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "ann"}, false, ""); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("on a full disk: %v", err)
	}
	if code := k.use(); code != record.CodeKeyRevoked {
		t.Errorf("refused with %q", code)
	}
	w.disk.Heal()
	done := w.await(t, w.eventualJob(t))
	if done.Revoked != 1 {
		t.Errorf("%+v", done)
	}
	w.kill(true)
	if v := k.view(); v.Status != record.Revoked {
		t.Errorf("status %s", v.Status)
	}
	if code := other.use(); code != "" {
		t.Errorf("another's key: %q", code)
	}
}

// eventualJob waits until there is one.
func (w *world) eventualJob(t *testing.T) limiter.Job {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		jobs, err := w.Jobs(limiter.Operator)
		if err != nil {
			t.Fatal(err)
		}
		if len(jobs) > 0 {
			return jobs[0]
		}
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("no job came")
	return limiter.Job{}
}

// TestNoCrashLetsADoomedKeyLiveOrAnotherDie revokes many while keys are minted,
// changed, used and forgotten, kills the limiter at any commit, and lets it go
// on.
func TestNoCrashLetsADoomedKeyLiveOrAnotherDie(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		defer w.Abandon()
		var keys []*key
		owners := map[*key]string{}
		for i := range rapid.IntRange(1, 40).Draw(rt, "keys") {
			owner := rapid.SampledFrom([]string{"ann", "bob"}).Draw(rt, "owner")
			k := w.mint(owned(owner, 5))
			keys, owners[k] = append(keys, k), owner
			if i%3 == 0 {
				k.use()
			}
		}
		if rapid.Bool().Draw(rt, "out of memory") {
			w.restart()
		}
		move := func() {
			k := rapid.SampledFrom(keys).Draw(rt, "moved")
			to := rapid.SampledFrom([]string{"ann", "bob"}).Draw(rt, "to")
			_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error { k.Owner = to; return nil })
			if err == nil {
				owners[k] = to
			} else if !errors.Is(err, limiter.ErrDead) && !errors.Is(err, errInjected) {
				rt.Fatal(err)
			}
		}
		for range rapid.IntRange(0, 3).Draw(rt, "moves before") {
			move()
		}
		filter := limiter.Filter{Owner: "ann"}
		if rapid.Bool().Draw(rt, "but for one") {
			filter.Except = []string{rapid.SampledFrom(keys).Draw(rt, "left out").id}
		}
		doomed := map[*key]bool{}
		for k, owner := range owners {
			doomed[k] = owner == "ann" && !slices.Contains(filter.Except, k.id)
		}
		crash := rapid.IntRange(0, 4).Draw(rt, "crash at commit")
		if crash > 0 {
			w.disk.FailAt(1+crash, rapid.Bool().Draw(rt, "reached"))
		}
		j, err := w.RevokeMany(limiter.Operator, filter, false, "")
		if err != nil {
			rt.Fatal(err)
		}
		check := func(when string) {
			for k, dead := range doomed {
				code := k.use()
				if dead && code != record.CodeKeyRevoked && code != record.CodeStoreUnavailable {
					rt.Fatalf("%s: a doomed key: %q", when, code)
				}
				if !dead && code == record.CodeKeyRevoked {
					rt.Fatalf("%s: another key is revoked", when)
				}
			}
		}
		check("at once")
		for range rapid.IntRange(0, 3).Draw(rt, "moves after") {
			if rapid.Bool().Draw(rt, "mint") {
				spec := &record.Key{Upstream: "openai", Owner: "ann", Custody: "held", Limit: record.NoLimits()}
				if k, err := w.tryMint(limiter.Operator, spec); err == nil {
					keys, doomed[k], owners[k] = append(keys, k), false, "ann"
				}
			} else {
				move()
			}
		}
		if crash > 0 {
			w.disk.Heal()
			w.kill(rapid.Bool().Draw(rt, "power"))
			check("after a crash")
		}
		done := w.await(rt, j)
		check("at the end")
		n := int64(0)
		for _, dead := range doomed {
			if dead {
				n++
			}
		}
		if done.Revoked > n || crash == 0 && (done.Revoked != n || done.Matched != n) {
			rt.Fatalf("%+v, want %d revoked", done, n)
		}
		w.agree(rt)
		w.restart()
		check("after a restart")
		if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestOnlySoManyJobsRunAtOnceAndTheLastAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gate := make(chan struct{})
	for i := range limiter.KeepJobs + 5 {
		j, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: fmt.Sprint(i)}, false, "")
		if err != nil {
			t.Fatal(err)
		}
		w.await(t, j)
	}
	jobs, err := w.Jobs(limiter.Operator)
	if err != nil || len(jobs) > limiter.KeepJobs+1 || jobs[0].Number != limiter.KeepJobs+5 {
		t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	w.disk.BeforeCommit(func(int) { <-gate })
	var errs []error
	results := make(chan error, limiter.MaxJobs+1)
	for range limiter.MaxJobs + 1 {
		go func() {
			_, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "x"}, false, "")
			results <- err
		}()
	}
	errs = append(errs, <-results) // the others wait for the disk
	close(gate)
	for range limiter.MaxJobs {
		errs = append(errs, <-results)
	}
	if err := errors.Join(errs...); !errors.Is(err, limiter.ErrJobs) {
		t.Errorf("%v", err)
	}
}
