package limiter_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// newLockdown is a switch that waits for its file as long as tests wait.
func newLockdown(path string) *limiter.Lockdown {
	return limiter.NewLockdown(limiter.LockdownOptions{Path: path, Patience: patience})
}

// newLockedWorld is a world with a lockdown's switch.
func newLockedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.lockdown = newLockdown(filepath.Join(w.dir, "lockdown"))
	w.restart()
	t.Cleanup(func() { w.lockdown.Close() })
	return w
}

// recall is what the next process finds.
func (w *world) recall() {
	w.lockdown.Close()
	w.lockdown = newLockdown(filepath.Join(w.dir, "lockdown"))
	w.lockdown.Recall()
	w.restart()
}

func (w *world) lock(t *testing.T, reason string) (limiter.LockedDown, int) {
	t.Helper()
	s, cut, err := w.lockdown.Set(limiter.Operator, reason)
	if err != nil {
		t.Fatal(err)
	}
	return s, cut
}

func TestLockdownRefusesEveryKeyAtOnceAndSurvivesARestart(t *testing.T) {
	t.Parallel()
	w := newLockedWorld(t)
	k, unlimited := w.mint(activations(3)), w.mint(func(*record.Key) {})
	var told record.Code
	running, refusal := k.ask(func(a *limiter.Ask) { a.OnCut = func(r *record.Refusal) { told = r.Code } })
	if refusal != nil {
		t.Fatal(refusal)
	}
	s, cut := w.lock(t, "drill")
	if cut != 1 || told != record.CodeLockedDown || running.Cut() == nil || !s.Durable || s.By != "operator" {
		t.Errorf("%d cut, told %q, state %+v", cut, told, s)
	}
	running.Settle(record.Amounts{record.Activations: 1})
	for _, k := range []*key{k, unlimited} {
		for _, opts := range [][]func(*limiter.Ask){nil, {free}} {
			_, refusal := k.ask(opts...)
			if refusal == nil || refusal.Code != record.CodeLockedDown || !strings.Contains(refusal.Message, "drill") || refusal.KeyID != k.id {
				t.Errorf("refusal: %+v", refusal)
			}
		}
	}
	live, refusal := w.Find(ctx, k.lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if refusal := live.Touch(ctx, limiter.Ask{}.Addr); refusal != nil {
		t.Errorf("a holder's question: %v", refusal)
	}
	if s := w.Stats().Lockdown; s == nil || s.Reason != "drill" {
		t.Errorf("stats: %+v", s)
	}

	w.recall()
	if code := k.use(); code != record.CodeLockedDown {
		t.Errorf("after a restart: %q", code)
	}
	since := s.Since
	w.clock.advance(time.Hour)
	if s, _ := w.lock(t, "still"); s.Reason != "still" || !s.Since.Equal(since) {
		t.Errorf("set twice: %+v, want the first one's time", s)
	}
	if s, _ := w.lock(t, ""); s.Reason != "still" || w.lockdown.State().Reason != "still" {
		t.Errorf("set again without a reason: %+v, want the one that was given", s)
	}
	if err := w.lockdown.Lift(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if n := k.drain(record.CodeActivationsExhausted); n != 2 {
		t.Errorf("%d left, want 2: a lockdown takes nothing", n)
	}
	w.recall()
	if code := unlimited.use(); code != "" {
		t.Errorf("lifted, and then restarted: %q", code)
	}
	if err := w.lockdown.Lift(limiter.Operator); !errors.Is(err, limiter.ErrNotLocked) {
		t.Errorf("lifted twice: %v", err)
	}
}

func TestLockdownHoldsWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	w := newLockedWorld(t)
	k := w.mint(activations(100))
	running, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	w.disk.FailAt(1, false)
	if _, err := w.RepairClock(limiter.Operator); err == nil {
		t.Fatal("the store does not fail")
	}
	if _, cut := w.lock(t, ""); cut != 1 || running.Cut() == nil {
		t.Errorf("%d cut", cut)
	}
	if code := k.use(); code != record.CodeLockedDown {
		t.Errorf("refused with %q", code)
	}
	// Another Limiter takes over; what the first one runs is cut all the same.
	w.disk.Heal()
	if err := w.lockdown.Lift(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	w.kill(false)
	if _, refusal := k.ask(); refusal != nil {
		t.Fatal(refusal)
	}
	if _, cut := w.lock(t, ""); cut != 1 {
		t.Errorf("%d cut, want the one that runs on the new limiter", cut)
	}
}

func TestLockdownIsTheOperatorsAndComesIntoTheAuditLogAlsoLater(t *testing.T) {
	t.Parallel()
	w := newLockedWorld(t)
	for _, by := range []limiter.Caller{{Name: "someone"}, {Name: "x", Role: "ci", Token: "t"}} {
		if _, _, err := w.lockdown.Set(by, ""); !errors.Is(err, limiter.ErrForbidden) || w.lockdown.State() != nil {
			t.Errorf("set by %+v: %v", by, err)
		}
	}
	w.lock(t, "one")
	if err := w.lockdown.Lift(limiter.Caller{Name: "someone"}); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("lifted: %v", err)
	}
	if got := w.acts(""); got != "lockdown.set" {
		t.Errorf("the log says %q", got)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.lockdown.Lift(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	w.lock(t, "two")
	w.lockdown.Close()
	w.lockdown = newLockdown(filepath.Join(w.dir, "lockdown"))
	w.lockdown.Recall()
	w.open(w.disk.Open())
	if got := w.acts(""); got != "lockdown.set lockdown.lift lockdown.set" {
		t.Errorf("once the store is open again, the log says %q", got)
	}
	w.recall()
	if got := w.acts(""); got != "lockdown.set lockdown.lift lockdown.set" {
		t.Errorf("after one more start, the log says %q", got)
	}
	if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
		t.Error(err)
	}
}

func TestALockdownThatCannotBeWrittenHoldsAndIsWrittenLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blocked := filepath.Join(dir, "store")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // a file where the directory belongs
		t.Fatal(err)
	}
	path := filepath.Join(blocked, "lockdown")
	d := newLockdown(path)
	t.Cleanup(d.Close)
	s, _, err := d.Set(limiter.Operator, "now")
	if err != nil || s.Durable {
		t.Fatalf("%+v, %v", s, err)
	}
	if d.Refusal(nil) == nil {
		t.Error("it does not hold")
	}
	if err := errors.Join(os.Remove(blocked), os.Mkdir(blocked, 0o700)); err != nil {
		t.Fatal(err)
	}
	d.WriteAgain()
	if s := d.State(); !s.Durable {
		t.Error("not written when it could be")
	}
	next := newLockdown(path)
	next.Recall()
	if s := next.State(); s == nil || s.Reason != "now" {
		t.Errorf("the next process finds %+v", s)
	}
}

// TestALockdownIsLiftedWhateverIsLeftOfAnAttemptToWriteIt: only its file says that it is in
// force.
func TestALockdownIsLiftedWhateverIsLeftOfAnAttemptToWriteIt(t *testing.T) {
	t.Parallel()
	w := newLockedWorld(t)
	k := w.mint(activations(3))
	w.lock(t, "drill")
	unremovable(t, filepath.Join(w.dir, "lockdown.new"))
	if err := w.lockdown.Lift(limiter.Operator); err != nil {
		t.Error(err)
	}
	if code := k.use(); code != "" {
		t.Errorf("it was lifted, and a key answers %q", code)
	}
	w.recall()
	if code := k.use(); code != "" {
		t.Errorf("after a restart, it answers %q", code)
	}

	w.lock(t, "again")
	unremovable(t, filepath.Join(w.dir, "lockdown"))
	if err := w.lockdown.Lift(limiter.Operator); err == nil || !strings.Contains(err.Error(), "stays in force") {
		t.Errorf("a restart would refuse every key: %v", err)
	}
	if code := k.use(); code != record.CodeLockedDown {
		t.Errorf("it was not lifted, and a key answers %q", code)
	}
}

// unremovable puts something at a path that cannot be removed as a file is.
func unremovable(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "something"), 0o700)); err != nil {
		t.Fatal(err)
	}
}

// FuzzLockdownFile holds that a file, whatever is in it, refuses every key.
func FuzzLockdownFile(f *testing.F) {
	f.Add([]byte(`{"since":"2026-11-25T18:00:00Z","by":"operator","reason":"drill"}`))
	f.Add([]byte(``))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"since":5}`))
	f.Add([]byte(strings.Repeat("[", 5000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "lockdown")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d := newLockdown(path)
		d.Recall()
		if r := d.Refusal(nil); r == nil || r.Code != record.CodeLockedDown {
			t.Error("keys work")
		}
		if err := d.Lift(limiter.Operator); err != nil || d.Refusal(nil) != nil {
			t.Errorf("it cannot be lifted: %v", err)
		}
	})
}

// TestAReasonHoldsNoKeyString is about people who say which key leaked by its
// string: holders of keys are told the reason.
func TestAReasonHoldsNoKeyString(t *testing.T) {
	t.Parallel()
	w := newLockedWorld(t)
	secret, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	reason := "found " + secret.Reveal() + " in a gist"
	one, many := w.mint(activations(5)), w.mint(activations(5))
	view, _, err := w.Revoke(ctx, limiter.Operator, one.id, reason)
	if err != nil {
		t.Fatal(err)
	}
	job, err := w.RevokeMany(limiter.Operator, limiter.Filter{Query: many.id}, false, reason)
	if err != nil {
		t.Fatal(err)
	}
	locked, _, err := w.lockdown.Set(limiter.Operator, reason)
	if err != nil {
		t.Fatal(err)
	}
	for what, told := range map[string]string{"revoke": view.EndedReason, "revoke many": job.Reason, "lockdown": locked.Reason} {
		if told != "found [key] in a gist" {
			t.Errorf("%s tells %q", what, told)
		}
	}
}
