package limiter_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// What is too much for one transaction of a store has to be done in several: nothing that
// holders of keys can bring about may hold up a sweep, a job or the opening of a store.

// raw runs fn on the Badger directory of a world that is closed meanwhile.
func (w *world) raw(fn func(s store.Store)) {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	s, err := store.OpenBadger(filepath.Join(w.dir, "badger"), discard)
	if err != nil {
		w.t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = patience
	fn(s)
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.reopenBadger()
}

// writeHours writes a history of so many hours from a moment on for each key.
func writeHours(t *testing.T, s store.Store, keys []*key, from time.Time, hours int) {
	t.Helper()
	for _, k := range keys {
		for at := 0; at < hours; at += 5000 {
			err := s.Update(func(tx store.Tx) error {
				for i := at; i < min(at+5000, hours); i++ {
					hour := limiter.Bucket{Start: from.Truncate(time.Hour).Add(time.Duration(i) * time.Hour), Activations: 1}
					v, err := json.Marshal(&hour)
					if err != nil {
						return err
					}
					if err := tx.Set(record.HourKey(k.id, hour.Start.Unix()), v); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// large makes a key's record as large as text can make it: of JSON's escapes.
func large(k *record.Key) {
	k.Metadata = make(map[string]string)
	for i := range 30 {
		k.Metadata[strconv.Itoa(i)] = strings.Repeat("<", 512)
	}
}

func (w *world) forgotten(keys []*key) {
	w.t.Helper()
	for i, k := range keys {
		if _, err := w.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
			w.t.Fatalf("key %d of %d: %v", i, len(keys), err)
		}
	}
	if left, err := w.Left(keys[0].id); err != nil || len(left) > 0 {
		w.t.Errorf("the store still holds %d rows, %v", len(left), err)
	}
}

func TestKeysThatEndTogetherAreForgottenHoweverLongTheirHistoriesAre(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	keys := w.MintMany(limiter.SweepKeys, func(_ int, k *record.Key) { k.Limit[record.Activations] = 5 })
	for _, k := range keys {
		if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.raw(func(s store.Store) { writeHours(t, s, keys, w.clock.time().Add(-20*day), 250) })
	w.clock.advance(limiter.DefaultRetain + time.Hour)
	w.mint(activations(1)) // tells the store the time
	w.SweepEnded()
	w.forgotten(keys)
	if err := w.Failed(); err != nil {
		t.Error(err)
	}
}

func TestAKeyIsForgottenThoughItsHistoryIsTooMuchForOneCommit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spec               func(w *world) func(*record.Key)
		child              bool
		inMemory, operator bool
	}{
		"a key":                            {},
		"one in memory":                    {inMemory: true},
		"a delegate":                       {spec: func(*world) func(*record.Key) { return delegating(activations(5)) }},
		"a child":                          {child: true},
		"one that an operator forgets":     {operator: true},
		"one that expires, by an operator": {spec: func(w *world) func(*record.Key) { return expiresIn(w, day) }, operator: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			mint, spec := w.mint, activations(5)
			if test.child {
				mint = w.mint(delegating(activations(50))).mustChild
			}
			if test.spec != nil {
				spec = test.spec(w)
			}
			ended := []*key{w.mint(activations(5)), mint(spec), w.mint(activations(5))}
			k := ended[1]
			for _, o := range ended {
				if !o.view().ExpiresAt.IsZero() {
					continue
				}
				if _, _, err := w.Revoke(ctx, limiter.Operator, o.id, ""); err != nil {
					t.Fatal(err)
				}
			}
			w.settle()
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			writeHours(t, w.disk.Open(), []*key{k}, w.clock.time(), 3000)
			w.open(w.disk.Open())
			w.disk.Limit(2500)
			w.clock.advance(2 * day)
			if test.operator {
				if err := w.Forget(ctx, limiter.Operator, k.id); err != nil {
					t.Error(err)
				}
			}
			w.clock.advance(limiter.DefaultRetain)
			w.mint(activations(1)) // tells the store the time
			if test.inMemory {
				k.view()
			}
			w.SweepEnded()
			w.forgotten(append([]*key{k}, ended...))
			w.agree(t)
		})
	}
}

// TestAKeyThatNoCommitHasRoomForHoldsUpNoOthersThatHaveEnded: not even without its history.
func TestAKeyThatNoCommitHasRoomForHoldsUpNoOthersThatHaveEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large, family, other := w.mint(activations(5)), w.mint(delegating(activations(5))), w.mint(activations(5))
	for range 16 { // each leaves a row
		if _, _, err := w.Rotate(limiter.Operator, large.id, record.Issue{Lookup: lookup()}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []*key{large, family, other} {
		if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.restart()
	w.disk.Limit(24)
	w.clock.advance(limiter.DefaultRetain + time.Hour)
	w.mint(activations(1)) // tells the store the time
	w.SweepEnded()
	w.forgotten([]*key{family, other})
	if v := large.view(); v.Status != record.Revoked {
		t.Errorf("the key that could not be forgotten is %s", v.Status)
	}
	w.disk.Limit(0)
	w.SweepEnded()
	w.forgotten([]*key{large})
	w.agree(t)
}

func TestKeysThatAreTooMuchForOneCommitHoldUpNoOthersWhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	w.MintMany(31, func(i int, k *record.Key) {
		expiresIn(w, time.Hour)(k)
		if i < 30 {
			large(k)
		}
	})
	w.raw(func(store.Store) {}) // none is in memory
	w.clock.advance(2 * time.Hour)
	w.SweepDue()
	if n := w.Stats().Keys[record.Expired]; n != 31 {
		t.Errorf("%d keys are recorded as expired, want 31", n)
	}
}

func TestABulkRevocationEndsKeysThatAreTooMuchForOneCommit(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	const n = 40
	keys := w.MintMany(n, func(_ int, k *record.Key) {
		owned("ann", 5)(k)
		large(k)
	})
	for _, k := range keys {
		k.view() // they are in memory
	}
	j, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "ann"}, false, "")
	if err != nil {
		t.Fatal(err)
	}
	if done := w.await(t, j); done.Matched != n || done.Revoked != n || done.Already != 0 {
		t.Errorf("%+v", done)
	}
	for _, k := range keys {
		if v := k.view(); v.EndedStatus != record.Revoked {
			t.Errorf("a key is recorded as %q", v.EndedStatus)
		}
	}
}

func TestAStoreOpensThoughWhatItRecoversIsTooMuchForOneCommit(t *testing.T) {
	t.Parallel()
	w := newBadgerWorld(t)
	const n = 240
	keys := w.MintMany(n, func(_ int, k *record.Key) { k.Limit[record.Activations] = 5 })
	w.raw(func(s store.Store) { writeHours(t, s, keys, w.clock.time().Add(-100*day), 120) })
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenBadger(filepath.Join(w.dir, "badger"), discard)
	if err != nil {
		t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = patience
	w.open(s)
	for _, k := range keys {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
	}
	w.Abandon() // killed
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w.reopenBadger()
	for _, k := range keys {
		if v := k.view(); v.Used[record.Activations] != 1 {
			t.Fatalf("a key has used %d, want 1", v.Used[record.Activations])
		}
	}
	if left, err := w.Left(keys[0].id); err != nil || len(left) > 10 {
		t.Errorf("the store still holds %q, %v", left, err)
	}
}

// TestKeysThatChangeWhileTheyAreStoppedStayRevokedAfterACrash: their changes were on their way
// to the disk, no longer match what is revoked, and are more than is ended with one commit.
func TestKeysThatChangeWhileTheyAreStoppedStayRevokedAfterACrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 60
	reason := strings.Repeat("<", 512) // each end is more to write than each change
	keys := w.MintMany(n, func(_ int, k *record.Key) {
		owned("ann", 5)(k)
		large(k)
		for i := range 25 {
			delete(k.Metadata, strconv.Itoa(i))
		}
	})
	for _, k := range keys {
		k.view() // they are in memory
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	var crashed *storetest.Disk // right after the job's record came
	var anchor []byte
	commits, first, second := w.disk.Commits(), make(chan struct{}), make(chan struct{})
	began, applied := make(chan struct{}), make(chan struct{})
	w.disk.BeforeCommit(func(at int) {
		switch at {
		case commits + 1:
			close(began)
			<-first
			return
		case commits + 2:
			close(applied)
			<-second
			return
		}
		disk := w.disk.Snapshot()
		recorded := false
		err := disk.Open().View(func(r store.Reader) error {
			return r.Scan([]byte(record.SpaceJobs), nil, false, func(_, _ []byte) (bool, error) {
				recorded = true
				return false, nil
			})
		})
		if err != nil {
			t.Error(err)
		}
		if recorded {
			once.Do(func() { crashed, anchor = disk, w.file(w.anchor) })
		}
	})
	var changes sync.WaitGroup
	changes.Go(func() { w.mint(activations(1)) })
	<-began
	for _, k := range keys {
		changes.Go(func() {
			_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(spec *record.Key) error { spec.Owner = "bob"; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	for w.Backlog() < 1+n {
		time.Sleep(time.Millisecond)
	}
	close(first)
	<-applied
	var job limiter.Job
	var revoking sync.WaitGroup
	revoking.Go(func() {
		var err error
		if job, err = w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "ann"}, false, reason); err != nil {
			t.Error(err)
		}
	})
	for _, k := range keys {
		for k.view().Status != record.Revoked {
			time.Sleep(time.Millisecond)
		}
	}
	close(second)
	changes.Wait()
	revoking.Wait()
	if done := w.await(t, job); done.Matched != n || done.Revoked != n {
		t.Errorf("%+v", done)
	}
	w.Abandon()
	w.put(w.anchor, anchor)
	w.disk, w.shadow = crashed, w.shadow+"'"
	w.open(w.disk.Open())
	for i, k := range keys {
		if code := k.use(); code != record.CodeKeyRevoked {
			t.Errorf("after a crash, key %d answers %q", i, code)
		}
	}
	w.agree(t)
}
