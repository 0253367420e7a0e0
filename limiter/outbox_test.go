package limiter_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

const hookURL = "https://ops.example.com/till"

// waiting lists what waits for the hook, as "event key".
func (w *world) waiting() (all []string, messages []event.Message) {
	w.t.Helper()
	messages, _, err := w.Outbox().Due(hookURL, 100_000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range messages {
		var body struct {
			Data struct {
				KeyID string `json:"key_id"`
			}
		}
		if err := json.Unmarshal(m.Payload, &body); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(m.Event)+" "+body.Data.KeyID))
	}
	return all, messages
}

func (w *world) hook(events ...event.Name) {
	w.t.Helper()
	w.hooks = []event.Hook{{URL: hookURL, Events: events}}
	if err := w.Outbox().SetHooks(w.hooks); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pending() int64 {
	w.t.Helper()
	hooks, err := w.ListHooks(limiter.Operator)
	if err != nil || len(hooks) != 1 {
		w.t.Fatalf("%d hooks, %v", len(hooks), err)
	}
	return hooks[0].Pending
}

func TestAMessageIsWrittenWithTheActThatItTellsOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook()
	k := w.mint(activations(1))
	k.use()
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	w.kill(true)
	want := []string{"key_created " + k.id, "key_threshold " + k.id, "key_exhausted " + k.id}
	if got, _ := w.waiting(); !slices.Equal(got, want) || w.pending() != 3 {
		t.Errorf("after a power cut %d wait: %q", w.pending(), got)
	}
	for _, reached := range []bool{false, true} {
		before, _ := w.waiting()
		w.disk.FailAt(1, reached)
		_, _, err := w.Revoke(ctx, limiter.Operator, k.id, "")
		if err == nil {
			t.Fatal("revoked on a disk that fails")
		}
		w.disk.Heal()
		w.kill(true)
		after, _ := w.waiting()
		revoked := k.view().Status == record.Revoked
		if told := slices.Contains(after, "key_revoked "+k.id); told != revoked || !revoked && len(after) != len(before) {
			t.Errorf("reached %t: revoked %t, told %t", reached, revoked, told)
		}
	}
}

// TestTheMessageOfAnActNeedsNoSecondCommit lets every commit fail but the one of
// the act itself.
func TestTheMessageOfAnActNeedsNoSecondCommit(t *testing.T) {
	t.Parallel()
	for name, act := range map[event.Name]func(t *testing.T, w *world, k *key) (id string){
		event.KeyStale: func(_ *testing.T, w *world, k *key) string {
			w.clock.advance(31 * day)
			w.disk.FailAt(2, false)
			w.SweepStale()
			return k.id
		},
		event.KeyLeaked: func(t *testing.T, w *world, _ *key) string {
			_, lookup, err := token.MintAdmin()
			if err != nil {
				t.Fatal(err)
			}
			if _, err = w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "ci", Role: record.OperatorRole}); err != nil {
				t.Fatal(err)
			}
			w.disk.FailAt(2, false)
			w.leak(limiter.Operator, lookup, true)
			return ""
		},
	} {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.hook(name)
			k := w.mint(activations(1))
			id := act(t, w, k)
			if _, err := w.tryMint(limiter.Operator, &record.Key{Upstream: "openai", Custody: record.CustodyHeld}); err == nil {
				t.Fatal("a second commit has not failed")
			}
			w.disk.Heal()
			w.kill(true)
			if got, _ := w.waiting(); !slices.Equal(got, []string{strings.TrimSpace(string(name) + " " + id)}) {
				t.Errorf("after a power cut %q wait", got)
			}
		})
	}
}

func TestOnlyAMessageThatComesWakesWhoDelivers(t *testing.T) {
	t.Parallel()
	var woken atomic.Int64
	w := newWorld(t)
	w.hooks, w.posted = []event.Hook{{URL: hookURL}}, func() { woken.Add(1) }
	w.restart()
	w.mint(activations(1))
	if n := woken.Load(); n != 1 {
		t.Errorf("a message has woken it %d times", n)
	}
	_, messages := w.waiting()
	if err := w.Outbox().Forget(hookURL, messages[0]); err != nil {
		t.Fatal(err)
	}
	if n := woken.Load(); n != 1 || w.pending() != 0 {
		t.Errorf("one that was delivered has woken it, too: %d, and %d wait", n, w.pending())
	}
}

func TestAMessageKeepsIdAndTextUntilItIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook(event.KeyCreated)
	for range 5 {
		w.mint(activations(1))
	}
	_, first := w.waiting()
	if len(first) != 5 {
		t.Fatalf("%d wait", len(first))
	}
	if !slices.IsSortedFunc(first, func(a, b event.Message) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("messages of one moment are not in order")
	}
	if err := w.Outbox().Postpone(first[0], time.Minute); err != nil {
		t.Fatal(err)
	}
	due, next, err := w.Outbox().Due(hookURL, 100)
	if err != nil || len(due) != 4 || next != time.Minute {
		t.Errorf("%d due and the next in %s, %v", len(due), next, err)
	}
	if err := w.Outbox().Forget(hookURL, first[1]); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(time.Minute)
	w.restart()
	_, later := w.waiting()
	if len(later) != 4 || w.pending() != 4 || later[0].ID != first[0].ID || string(later[0].Payload) != string(first[0].Payload) || later[0].Attempts != 1 {
		t.Errorf("later %d wait, the first with %d attempts", len(later), later[0].Attempts)
	}
	if err := w.Outbox().Forget(hookURL, first[1]); err != nil { // once more
		t.Fatal(err)
	}
	if w.pending() != 4 {
		t.Errorf("%d are counted", w.pending())
	}
}

func TestAMessageThatAWrongClockHasPostponedIsDueOnceThatIsRepaired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook(event.KeyCreated)
	const wrong = 365 * 24 * time.Hour
	w.clock.set(wrong)
	w.restart()
	w.mint(activations(1))
	_, messages := w.waiting()
	if err := w.Outbox().Postpone(messages[0], time.Minute); err != nil {
		t.Fatal(err)
	}
	if due, _, err := w.Outbox().Due(hookURL, 100); err != nil || len(due) != 0 {
		t.Errorf("%d due that were postponed, %v", len(due), err)
	}
	w.clock.set(-wrong)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if due, _, err := w.Outbox().Due(hookURL, 100); err != nil || len(due) != 1 {
		t.Errorf("%d due after the repair, %v", len(due), err)
	}
}

func TestHooksAreToldWhatTheyWantAndForgottenWhenTheyAreGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mint(activations(1)) // before there was any
	w.hook(event.KeyRevoked, event.TokenCreated)
	k := w.mint(activations(1))
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.waiting(); !slices.Equal(got, []string{"key_revoked " + k.id}) {
		t.Errorf("waiting: %q", got)
	}
	if err := w.Outbox().SetHooks([]event.Hook{{URL: "https://elsewhere.example.com"}}); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.waiting(); len(got) != 0 {
		t.Errorf("for a webhook that is gone wait %q", got)
	}
	if _, err := w.ListHooks(limiter.Caller{Name: "ann", Role: "crew"}); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("another than the operator lists webhooks: %v", err)
	}
}

func TestNoMessageHoldsAKeysString(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook()
	leaked := "till_sk_0123456789012345678901234567"
	w.mint(func(k *record.Key) {
		k.Limit[record.Activations] = 1
		k.Name, k.Owner, k.Purpose = "of "+leaked, leaked, leaked
	})
	_, messages := w.waiting()
	if len(messages) != 1 || strings.Contains(string(messages[0].Payload), leaked) {
		t.Errorf("%s", messages[0].Payload)
	}
}

func TestAFeedShowsWhatItsReaderSees(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	role := record.NewRole()
	role.Permissions = []record.Permission{record.KeysCreate, record.KeysRead}
	w.roles = map[string]record.Role{"crew": role}
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	_, ann := w.hire(limiter.Operator, "ann", "crew")
	_, bob := w.hire(limiter.Operator, "bob", "crew")
	feed, err := w.Subscribe(ann)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	w.mint(activations(1))
	w.mintBy(bob, activations(1))
	k := w.mintBy(ann, delegating(activations(9)))
	c := k.mustChild(activations(1))
	for _, want := range []string{k.id, c.id} {
		e, err := feed.Next(ctx, patience)
		if err != nil || e.Name != event.KeyCreated || e.Key.ID != want {
			t.Errorf("%+v %v, want %s", e, err, want)
		}
	}
	if _, err := w.RevokeToken(limiter.Operator, ann.Token); err != nil {
		t.Fatal(err)
	}
	if e, err := feed.Next(ctx, time.Nanosecond); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("after its token was revoked: %+v %v", e, err)
	}
	role.Permissions = []record.Permission{record.KeysCreate}
	other, err := w.Subscribe(bob)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := w.SetRoles(map[string]record.Role{"crew": role}); err != nil {
		t.Fatal(err)
	}
	w.mintBy(bob, activations(1))
	if e, err := other.Next(ctx, patience); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("after its role may read no more: %+v %v", e, err)
	}
	if _, err := w.Subscribe(bob); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("subscribing: %v", err)
	}
}

func TestASlowReaderIsDroppedAndHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	feed, err := w.Subscribe(limiter.Operator)
	if err != nil {
		t.Fatal(err)
	}
	quick, err := w.Subscribe(limiter.Operator)
	if err != nil {
		t.Fatal(err)
	}
	k := w.mint(activations(1))
	seen := 0
	for range 300 {
		if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Resume(limiter.Operator, k.id); err != nil {
			t.Fatal(err)
		}
		if _, err := quick.Next(ctx, patience); err != nil {
			t.Fatal(err)
		}
		seen++
	}
	n := 0
	for ; err == nil; n++ {
		_, err = feed.Next(ctx, patience)
	}
	if !errors.Is(err, event.ErrFeedSlow) || n > 257 || seen != 300 {
		t.Errorf("%d events, then %v; the other reader had %d", n, err, seen)
	}
	w.Outbox().Feeds.EndAll()
	for err = nil; err == nil; {
		_, err = quick.Next(ctx, patience)
	}
	if !errors.Is(err, event.ErrFeedClosed) {
		t.Errorf("the other reader ended with %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	last, err := w.Subscribe(limiter.Operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := last.Next(gone, patience); !errors.Is(err, context.Canceled) {
		t.Errorf("a reader that left: %v", err)
	}
	last.Close()
	last.Close()
}
