package limiter_test

import (
	"errors"
	"fmt"
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
)

// rehearsed is a store that runs every transaction twice, and keeps what the second
// run did: as one that has to begin again after a conflict, or a batch of which one
// change failed. So whatever a change does besides its transaction shows in any test.
type rehearsed struct{ store.Store }

var errRehearsed = errors.New("only a rehearsal")

// Update implements store.Store.
func (s rehearsed) Update(fn func(store.Tx) error) error {
	err := s.Store.Update(func(tx store.Tx) error { return errors.Join(fn(tx), errRehearsed) })
	if !errors.Is(err, errRehearsed) {
		return err
	}
	return s.Store.Update(fn)
}

// rolled is a store that can run every transaction and keep nothing of it.
type rolled struct {
	store.Store
	back bool
}

// Update implements store.Store.
func (s *rolled) Update(fn func(store.Tx) error) error {
	if !s.back {
		return s.Store.Update(fn)
	}
	err := s.Store.Update(func(tx store.Tx) error { return errors.Join(fn(tx), errRehearsed) })
	if errors.Is(err, errRehearsed) {
		return store.ErrNoSpace // nothing was written
	}
	return err
}

func TestWhatIsRefusedInsideATransactionIsOneAttempt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		act  func(w *world, by limiter.Caller, k *key) error
		what string
	}{
		"mint": {func(w *world, by limiter.Caller, _ *key) error {
			_, err := w.tryMint(by, &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.Amounts{20, -1, -1, -1}})
			return err
		}, "max_activations above the ceiling of role maker"},
		"change": {func(w *world, by limiter.Caller, k *key) error {
			_, err := w.Change(ctx, by, k.id, 0, func(k *record.Key) error { k.Limit[record.Activations] = 20; return nil })
			return err
		}, "max_activations above the ceiling of role maker"},
		"grant": {func(w *world, by limiter.Caller, k *key) error {
			_, err := w.GrantMore(ctx, by, k.id, limiter.More{Activations: 20})
			return err
		}, "max_activations above the ceiling of role maker"},
		"rotate": {func(w *world, by limiter.Caller, k *key) error {
			role := w.roles["maker"]
			role.Max[record.Activations] = 3
			if err := w.SetRoles(map[string]record.Role{"maker": role}); err != nil {
				return err
			}
			_, _, err := w.Rotate(by, k.id, record.Issue{Lookup: lookup()}, 0)
			return err
		}, "max_activations above the ceiling of role maker"},
		"resume": {func(w *world, by limiter.Caller, k *key) error {
			if _, err := w.Suspend(limiter.Operator, k.id); err != nil {
				return err
			}
			_, err := w.Resume(by, k.id)
			return err
		}, "the suspension by operator"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			role := record.NewRole()
			role.Permissions = []record.Permission{record.KeysCreate, record.KeysUpdate, record.KeysRotate, record.KeysRevoke}
			role.Max[record.Activations] = 10
			w.roles = map[string]record.Role{"maker": role}
			if err := w.SetRoles(w.roles); err != nil {
				t.Fatal(err)
			}
			_, maker := w.hire(limiter.Operator, "anna", "maker")
			k := w.mintBy(maker, activations(5))
			var above *record.CeilingError
			if err := test.act(w, maker, k); !errors.As(err, &above) && !errors.Is(err, limiter.ErrForbidden) {
				t.Fatalf("it was not refused: %v", err)
			}
			w.clock.advance(time.Hour)
			w.SweepAttempts()
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			var said []string
			for _, line := range w.auditLines() {
				if strings.Contains(line, audit.ActRefused) {
					said = append(said, line)
				}
			}
			if len(said) != 1 || !strings.Contains(said[0], `"attempts":{"after":1},"refused":{"after":"`+test.what+`"}`) {
				t.Errorf("the audit log says %q", said)
			}
		})
	}
}

// memory is what others see of a limiter's memory.
func (w *world) memory(t *testing.T, ids ...string) (all []string) {
	t.Helper()
	hooks, err := w.ListHooks(limiter.Operator)
	if err != nil {
		t.Fatal(err)
	}
	seq, hash, err := w.AuditHead()
	if err != nil {
		t.Fatal(err)
	}
	onces, err := w.Onces()
	if err != nil {
		t.Error(err)
	}
	all = append(all, fmt.Sprintf("hooks %+v, audit %d %s, onces %d, stats %+v", hooks, seq, hash, onces, w.Stats()))
	for _, id := range ids {
		reserved, _, err := w.Reserved(id)
		v, err2 := w.Get(limiter.Operator, id)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("reserved %v, %+v", reserved, v))
	}
	return all
}

// TestATransactionThatIsRolledBackChangesNothingInMemory lets all of them run, and
// none be kept.
func TestATransactionThatIsRolledBackChangesNothingInMemory(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(w *world, k *key) error{
		"hooks":    func(w *world, _ *key) error { return w.Outbox().SetHooks([]event.Hook{{URL: "https://b.example.com"}}) },
		"no hooks": func(w *world, _ *key) error { return w.Outbox().SetHooks(nil) },
		"mint": func(w *world, _ *key) error {
			_, err := w.tryMint(limiter.Operator.Once("it", [32]byte{1}), &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()})
			return err
		},
		"change": func(w *world, k *key) error {
			_, err := w.Change(ctx, limiter.Operator, k.id, 0, func(k *record.Key) error {
				k.Name, k.Limit[record.Activations], k.Renews = "b", record.NoLimit, ""
				return nil
			})
			return err
		},
		"grant": func(w *world, k *key) error {
			_, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 1})
			return err
		},
		"a token": func(w *world, _ *key) error {
			_, err := w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup(), Name: "ci", Role: record.OperatorRole})
			return err
		},
		"a message": func(w *world, _ *key) error {
			_, messages := w.waiting()
			return w.Outbox().Forget(hookURL, messages[0])
		},
		"what was used": func(w *world, _ *key) error {
			w.clock.advance(time.Second)
			return errors.Join(w.Save(), w.Ping(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			rolling := &rolled{Store: disk.Open()}
			w := &world{t: t, clock: newClock(), disk: disk, shadow: "shadow", anchor: "anchor", files: disk.Files()}
			w.hooks = []event.Hook{{URL: hookURL}}
			w.open(rolling)
			t.Cleanup(w.Abandon)
			k := w.mint(delegating(activations(100), func(k *record.Key) { k.Limit[record.Tokens] = record.NoLimit }))
			g, refusal := k.ask(bound(record.Tokens, 7))
			if refusal != nil {
				t.Fatal(refusal)
			}
			g.Settle(record.Amounts{record.Activations: 1, record.Tokens: 7})
			if err := w.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			before := w.memory(t, k.id)
			rolling.back = true
			if err := act(w, k); !errors.Is(err, store.ErrNoSpace) {
				t.Errorf("it was kept: %v", err)
			}
			rolling.back = false // a look at the committer's memory is a transaction, too
			if after := w.memory(t, k.id); !slices.Equal(before, after) {
				t.Errorf("before: %q\nafter:  %q", before, after)
			}
			if err := act(w, k); err != nil {
				t.Error(err)
			}
			w.agree(t)
		})
	}
}

func TestMessagesThatComeAndGoBesideAChangeOfHooksAreCountedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newMachine(t)
		w.hook(event.KeyCreated)
		m := &mortal{w: w, key: w.mint(activations(1))}
		w.mint(activations(1))
		_, messages := w.waiting()
		forget := func(i int) func() {
			return func() {
				if err := w.Outbox().Forget(hookURL, messages[i]); err != nil {
					t.Error(err)
				}
			}
		}
		mint := func() { w.mint(activations(1)) }
		m.together(mint, forget(0), mint, forget(1), // and, in the same commit:
			func() {
				if err := w.Outbox().SetHooks([]event.Hook{{URL: hookURL}}); err != nil {
					t.Error(err)
				}
			},
			func() {
				if _, err := w.Suspend(limiter.Operator, m.id); err != nil {
					t.Error(err)
				}
			})
		if all, _ := w.waiting(); len(all) != 3 || w.pending() != 3 {
			t.Errorf("%q wait, and %d are counted", all, w.pending())
		}
	})
}
