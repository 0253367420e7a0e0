package limiter_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestBusyKeyTouchesNoDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1_000_000))
	for range 20_000 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(10 * time.Microsecond)
	}
	if err := w.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	before := w.disk.Commits()
	for range 6400 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(10 * time.Microsecond)
	}
	if commits := w.disk.Commits() - before; commits > 2*6400/32 {
		t.Errorf("6400 requests of a busy key took %d commits, want at most one per half block", commits)
	}
}

// TestABusyKeyWaitsForASlowDiskNowAndThen, and not with each request: the time in which
// requests wait says nothing of how many there would be.
func TestABusyKeyWaitsForASlowDiskNowAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.clock.run()
		k := w.mint(activations(1_000_000))
		w.disk.BeforeCommit(func(int) { time.Sleep(50 * time.Millisecond) })
		use := func(n int) (took time.Duration, commits int) {
			t.Helper()
			began, before := time.Now(), w.disk.Commits()
			for range n {
				if code := k.use(); code != "" {
					t.Fatal(code)
				}
				time.Sleep(time.Millisecond)
			}
			took = time.Since(began)
			if err := w.Ping(context.Background()); err != nil {
				t.Fatal(err)
			}
			return took, w.disk.Commits() - before
		}
		use(200)
		took, commits := use(640)
		t.Logf("640 requests, one in each millisecond, took %s and %d commits of 50 ms", took, commits)
		if took > 4*640*time.Millisecond || commits > 640/16 {
			t.Error("it waits too often")
		}
	})
}

func TestSlowKeyForfeitsNothingAtAPowerCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	for range 4 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(time.Second)
	}
	w.kill(true)
	if n := k.drain(record.CodeActivationsExhausted); n != 6 {
		t.Errorf("after 4 slow requests and a power cut %d were left, want 6", n)
	}
}

func TestAClientThatGivesUpWaitingTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(1))
	live, refusal := w.Find(context.Background(), k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.disk.BeforeCommit(func(int) { once.Do(func() { close(reached); <-release }) })
	ctx, cancel := context.WithCancel(context.Background())
	answer := make(chan *record.Refusal)
	go func() {
		ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/"}
		answer <- live.Reserve(ctx, &ask, new(limiter.Grant))
	}()
	<-reached
	cancel()
	if r := <-answer; r == nil {
		t.Fatal("admitted a client that was gone")
	}
	close(release)
	if n := k.drain(record.CodeActivationsExhausted); n != 1 {
		t.Errorf("%d left, want 1", n)
	}
}

func TestASlowKeysRequestWaitsForAtMostTwoCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(50))
	for i := range 50 {
		before := w.disk.Commits()
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		if n := w.disk.Commits() - before; n > 2 {
			t.Errorf("request %d waited for %d commits", i, n)
		}
		if err := w.Ping(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.clock.advance(time.Second)
	}
}
