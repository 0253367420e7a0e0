package limiter_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

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
	s, _, err := w.lockdown.Set(limiter.Operator, reason)
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
		if set, lifted := strings.Count(log, audit.ActLockdownSet), strings.Count(log, audit.ActLockdownLift); set != 2 || lifted != 1 {
			t.Errorf("the audit log says that it was set %d times, and lifted %d times", set, lifted)
		}
		if err := a.lockdown.Lift(limiter.Operator); !errors.Is(err, limiter.ErrNotLocked) {
			t.Errorf("lifting it again: %v", err)
		}
	}, lockable)
}

// TestALockdownThatIsSetBeforeTheDatabaseWasReachedIsNoLockdownOfAll: the file beside it
// survives a restart, and tells no other node.
func TestALockdownThatIsSetBeforeTheDatabaseWasReachedIsNoLockdownOfAll(t *testing.T) {
	t.Parallel()
	shared := limiter.LockdownOptions{Path: filepath.Join(t.TempDir(), "lockdown"), Patience: patience, Shared: true}
	d := limiter.NewLockdown(shared)
	defer d.Close()
	s, _, err := d.Set(limiter.Operator, "alone")
	if err != nil || s.Durable || len(s.Pending) == 0 || len(d.Untold()) == 0 {
		t.Errorf("it says that all are told: %+v, %v", s, err)
	}
	if err := d.Lift(limiter.Operator); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("lifting it without the database: %v", err)
	}
	again := limiter.NewLockdown(shared)
	defer again.Close()
	again.Recall()
	if s := again.State(); s == nil || s.Durable || len(again.Untold()) == 0 {
		t.Errorf("after a restart it says that all are told: %+v", s)
	}
}

func TestALockdownThatWasSetWithoutTheDatabaseReachesAllLater(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		k := a.mint(activations(100))
		c.locked(k, false)
		c.Cut(a.node)
		if s := c.lock(a, "alone"); s.Durable || len(s.Pending) == 0 || len(a.lockdown.Untold()) == 0 {
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
		if s := a.lockdown.State(); !s.Durable || a.lockdown.Untold() != nil {
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

// TestALockdownIsLiftedOnAllNodesThoughAFileStays: a node that starts believes the store.
func TestALockdownIsLiftedOnAllNodesThoughAFileStays(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a := c.w[0]
		k := a.mint(activations(100))
		c.lock(a, "drill")
		c.felt(a)
		unremovable(t, filepath.Join(a.dir, "lockdown"))
		if err := a.lockdown.Lift(limiter.Operator); err != nil {
			t.Errorf("it was lifted, and the answer is: %v", err)
		}
		c.felt(a)
		c.locked(k, false)
	}, lockable)
}

// logged calls what happens when a message is logged.
type logged struct {
	slog.Handler
	message string
	then    func()
}

// Handle implements slog.Handler.
func (l *logged) Handle(_ context.Context, r slog.Record) error {
	if r.Message == l.message && l.then != nil {
		then := l.then
		l.then = nil
		then()
	}
	return nil
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) WithAttrs([]slog.Attr) slog.Handler { return l }

// TestALockdownThatANodeSetsAfterAnotherHasLiftedOneHoldsThere although the disk of the node that
// lifted is slow to forget the one before.
func TestALockdownThatANodeSetsAfterAnotherHasLiftedOneHoldsThere(t *testing.T) {
	slow := &logged{message: "acts on the lockdown will be in the audit log twice"}
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		k := a.mint(activations(100))
		c.lock(a, "one")
		c.felt(a)
		unremovable(t, filepath.Join(a.dir, "lockdown.audit"))
		slow.then = func() {
			c.lock(b, "two")
			c.felt(b)
		}
		if err := a.lockdown.Lift(limiter.Operator); !errors.Is(err, limiter.ErrLockedAgain) || slow.then != nil {
			t.Fatal(err)
		}
		c.locked(k, true)
		if s := a.lockdown.State(); s == nil || s.Reason != "two" {
			t.Errorf("it says %+v", s)
		}
	}, func(w *world) {
		lockable(w)
		if w.node == "node-a" {
			w.lockdown = limiter.NewLockdown(limiter.LockdownOptions{Path: filepath.Join(w.dir, "lockdown"), Logger: slog.New(slow), Patience: patience})
		}
	})
}

// overtaken sets a lockdown on a node where that takes long to cut a request of k, and another
// one that is done before it. The first ends when what is returned is called.
func (c *nodes) overtaken(w *world, k *key) (end func()) {
	c.t.Helper()
	cutting, over := make(chan struct{}), make(chan struct{})
	_, refusal := k.on(w).ask(func(a *limiter.Ask) {
		a.OnCut = func(*record.Refusal) {
			close(cutting)
			<-over
		}
	})
	if refusal != nil {
		c.t.Fatal(refusal)
	}
	set := make(chan error, 1)
	go func() {
		_, _, err := w.lockdown.Set(limiter.Operator, "first")
		set <- err
	}()
	<-cutting
	c.lock(w, "second")
	c.felt(w)
	return func() {
		c.t.Helper()
		close(over)
		if err := <-set; err != nil {
			c.t.Fatal(err)
		}
		c.felt(w)
	}
}

// lift lifts a lockdown on all nodes.
func (c *nodes) lift(w *world) {
	c.t.Helper()
	if err := w.lockdown.Lift(limiter.Operator); err != nil {
		c.t.Fatal(err)
	}
	c.felt(w)
}

// TestALockdownThatWasOvertakenHoldsWhereItWasSet although another node lifts the other one: all
// nodes refuse once it is written, and its own from the beginning.
func TestALockdownThatWasOvertakenHoldsWhereItWasSet(t *testing.T) {
	for name, slow := range map[string]*logged{
		"before it is being written": nil,
		"while the disk is slow":     {message: "every key is refused, but that is not yet durable: a restart would end it"},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				a, b := c.w[0], c.w[1]
				defer a.lockdown.Close()
				k := a.mint(activations(100))
				lift := func() {
					if err := b.lockdown.Lift(limiter.Operator); err != nil {
						t.Error(err)
					}
					synctest.Wait() // the other has heard of that
					if code := k.use(); code != record.CodeLockedDown {
						t.Errorf("where it was set the answer is %q", code)
					}
				}
				end := c.overtaken(a, k)
				if slow == nil {
					lift()
				} else {
					unremovable(t, filepath.Join(a.dir, "lockdown.new"))
					slow.then = lift
				}
				end()
				if slow != nil && slow.then != nil {
					t.Fatal("it was written at once")
				}
				c.locked(k, true)
				c.lift(b)
				c.locked(k, false)
			}, func(w *world) {
				lockable(w)
				if slow != nil && w.node == "node-a" {
					w.lockdown = limiter.NewLockdown(limiter.LockdownOptions{Path: filepath.Join(w.dir, "lockdown"), Logger: slog.New(slow), Patience: patience})
				}
			})
		})
	}
}

// TestALockdownThatWasOvertakenCutsWhatWasAdmittedMeanwhile: its own node has lifted the other
// one before it could be written.
func TestALockdownThatWasOvertakenCutsWhatWasAdmittedMeanwhile(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a := c.w[0]
		k := a.mint(activations(100))
		end := c.overtaken(a, k)
		c.lift(a)
		running := make(map[string]*limiter.Grant)
		for _, w := range c.w {
			g, refusal := k.on(w).ask()
			if refusal != nil {
				t.Fatal(refusal)
			}
			running[w.node] = g
		}
		end()
		for node, g := range running {
			if r := g.Cut(); r == nil || r.Code != record.CodeLockedDown {
				t.Errorf("what was admitted on %s is cut with %v", node, r)
			}
		}
		c.locked(k, true)
	}, lockable)
}

// TestTheFileOfALockdownThatAnotherNodeLiftedIsNotWrittenAgain by the node that could not write
// it at first.
func TestTheFileOfALockdownThatAnotherNodeLiftedIsNotWrittenAgain(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		defer a.lockdown.Close()
		k := a.mint(activations(100))
		a.lockdown.SetPatience(time.Second)
		unwritten := filepath.Join(a.dir, "lockdown.new")
		unremovable(t, unwritten)
		c.lock(a, "drill")
		c.felt(a)
		end := a.lockdown.TakeTurn()
		time.Sleep(6 * time.Second) // it is to be written again, and has to wait
		c.lift(b)                   // its file cannot be forgotten meanwhile
		if err := os.RemoveAll(unwritten); err != nil {
			t.Fatal(err)
		}
		end()
		synctest.Wait()
		c.locked(k, false)
		if files, err := os.ReadDir(a.dir); err != nil || len(files) != 0 {
			t.Errorf("it keeps %v, %v", files, err)
		}
	}, lockable)
}
