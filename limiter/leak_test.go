package limiter_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// listener keeps whole events.
type listener struct {
	mu     sync.Mutex
	events []event.Event
}

func (w *listener) Committed(time.Duration, int) {}

func (w *listener) Happened(e event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// take returns the events with that name since the last time.
func (w *listener) take(name event.Name) (found []event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Name == name {
			found = append(found, e)
		}
	}
	w.events = slices.DeleteFunc(w.events, func(e event.Event) bool { return e.Name == name })
	return found
}

func newHeardWorld(t *testing.T) (*world, *listener) {
	t.Helper()
	w, heard := newWorld(t), &listener{}
	w.observe = heard
	w.restart()
	return w, heard
}

func (w *world) leak(by limiter.Caller, lookup token.Lookup, admin bool) limiter.Leaked {
	w.t.Helper()
	done, err := w.Leak(ctx, by, lookup, admin, false)
	if err != nil {
		w.t.Fatal(err)
	}
	return done
}

func TestALeakedKeyIsRevokedWhateverItsStatus(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	live, suspended, exhausted, revoked := w.mint(activations(5)), w.mint(activations(5)), w.mint(activations(1)), w.mint(activations(5))
	if _, err := w.Suspend(limiter.Operator, suspended.id); err != nil {
		t.Fatal(err)
	}
	exhausted.use()
	if _, _, err := w.Revoke(ctx, limiter.Operator, revoked.id, "before"); err != nil {
		t.Fatal(err)
	}
	g, refusal := live.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	if done, err := w.Leak(ctx, limiter.Operator, live.lookup, false, true); err != nil || done.State != limiter.LeakRevoked || live.view().Status != record.Active {
		t.Errorf("a dry run: %+v, %v, %s", done, err, live.view().Status)
	}
	for _, k := range []*key{live, suspended, exhausted} {
		if done := w.leak(limiter.Operator, k.lookup, false); done.State != limiter.LeakRevoked || done.ID != k.id {
			t.Errorf("%+v", done)
		}
		if v := k.view(); v.Status != record.Revoked || v.EndedReason != "its string was found in the open by operator" {
			t.Errorf("%s, %s", v.Status, v.EndedReason)
		}
		if done := w.leak(limiter.Operator, k.lookup, false); done.State != limiter.LeakDead {
			t.Errorf("once more: %+v", done)
		}
	}
	if g.Cut() == nil {
		t.Error("what ran was not cut")
	}
	g.Settle(record.Amounts{record.Activations: 1})
	if done := w.leak(limiter.Operator, revoked.lookup, false); done.State != limiter.LeakDead || revoked.view().EndedReason != "before" {
		t.Errorf("%+v", done)
	}
	if done := w.leak(limiter.Operator, newLookup(t), false); done != (limiter.Leaked{State: limiter.LeakUnknown}) {
		t.Errorf("unknown: %+v", done)
	}
	if events := heard.take(event.KeyLeaked); len(events) != 3 || events[0].Key.ID != live.id || events[0].By != "operator" {
		t.Errorf("%d events: %+v", len(events), events)
	}
}

func TestALeakedFormerStringEndsItsGraceAndNotTheKey(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	first := w.mint(activations(10))
	second := first.rotate(time.Hour)
	third := second.rotate(time.Hour)
	if done := w.leak(limiter.Operator, first.lookup, false); done.State != limiter.LeakGraceEnded || done.ID != first.id {
		t.Errorf("%+v", done)
	}
	first.expect("the leaked string", record.CodeKeyRevoked)
	second.expect("another in its grace", "")
	third.expect("the present one", "")
	if done := w.leak(limiter.Operator, first.lookup, false); done.State != limiter.LeakDead {
		t.Errorf("once more: %+v", done)
	}
	if done := w.leak(limiter.Operator, third.lookup, false); done.State != limiter.LeakRevoked {
		t.Errorf("%+v", done)
	}
	second.expect("with the key revoked", record.CodeKeyRevoked)
	if n := len(heard.take(event.KeyLeaked)); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestALeakedKeyIsShownOnlyToWhoSeesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roles := map[string]record.Role{
		"scanner": {Permissions: []record.Permission{record.KeysRevoke}, Sees: record.SeesOwn},
		"reader":  {Permissions: []record.Permission{record.KeysRead}, Sees: record.SeesAll},
	}
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	scanner := limiter.Caller{Name: "ci", Token: "tok_1", Role: "scanner"}
	k := w.mint(activations(5))
	if done := w.leak(scanner, k.lookup, false); done != (limiter.Leaked{State: limiter.LeakRevoked}) || k.view().Status != record.Revoked {
		t.Errorf("%+v, %s", done, k.view().Status)
	}
	for _, by := range []limiter.Caller{{Name: "r", Role: "reader"}, {Name: "nobody"}} {
		other := w.mint(activations(5))
		if _, err := w.Leak(ctx, by, other.lookup, false, false); !errors.Is(err, limiter.ErrForbidden) || other.view().Status != record.Active {
			t.Errorf("%s: %v", by.Name, err)
		}
	}
}

func TestALeakedAdminTokenIsRevoked(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	text, lookup, err := token.MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "ci", Role: record.OperatorRole})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authenticate(text.Reveal(), "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if done := w.leak(limiter.Operator, lookup, true); done.State != limiter.LeakRevoked || done.ID != rec.ID {
		t.Errorf("%+v", done)
	}
	if _, err := w.Authenticate(text.Reveal(), "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("it still works: %v", err)
	}
	if done := w.leak(limiter.Operator, lookup, true); done.State != limiter.LeakDead {
		t.Errorf("once more: %+v", done)
	}
	if done := w.leak(limiter.Operator, newLookup(t), true); done.State != limiter.LeakUnknown {
		t.Errorf("unknown: %+v", done)
	}
	if events := heard.take(event.KeyLeaked); len(events) != 1 || events[0].Token.ID != rec.ID {
		t.Errorf("%+v", events)
	}
}

func TestTheUseOfADeadKeyIsToldOnceAnHour(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	revoked, canary, exhausted := w.mint(activations(5)), w.mint(activations(0)), w.mint(activations(1))
	if _, _, err := w.Revoke(ctx, limiter.Operator, revoked.id, ""); err != nil {
		t.Fatal(err)
	}
	exhausted.use()
	for _, test := range []struct {
		name   string
		key    *key
		code   record.Code
		canary bool
	}{
		{"revoked", revoked, record.CodeKeyRevoked, false},
		{"a canary", canary, record.CodeActivationsExhausted, true},
		{"exhausted", exhausted, record.CodeActivationsExhausted, false},
	} {
		told := func(what string, count int64) {
			t.Helper()
			events := heard.take(event.KeyAfterDeath)
			if count == 0 {
				if len(events) != 0 {
					t.Errorf("%s: %s: %+v", test.name, what, events)
				}
				return
			}
			if len(events) != 1 || events[0].Count != count || events[0].Code != test.code || events[0].Key.ID != test.key.id ||
				events[0].From != "192.0.2.66" || events[0].Canary != test.canary {
				t.Errorf("%s: %s: %+v", test.name, what, events)
			}
		}
		use := func(n int) {
			t.Helper()
			for range n {
				if code := test.key.use(from("192.0.2.66")); code != test.code {
					t.Fatalf("%s: %q", test.name, code)
				}
			}
		}
		use(1)
		told("the first use", 1)
		use(5)
		w.SweepIdle()
		told("within the hour", 0)
		w.clock.advance(30 * time.Minute)
		w.SweepIdle() // would forget the key, if it were not told of
		use(2)
		told("within the hour, after a sweep", 0)
		w.clock.advance(30*time.Minute - time.Nanosecond)
		w.SweepIdle()
		told("just before the hour is over", 0)
		w.clock.advance(time.Nanosecond)
		w.SweepIdle()
		told("then together", 7)
		w.clock.advance(2 * time.Hour)
		w.SweepIdle()
		told("nothing more", 0)
		use(1)
		told("and again", 1)
	}
}

func TestLiveKeysAndUsedUpRolesAreNotToldAsDead(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	limit := record.NoLimits()
	limit[record.Activations] = 1
	if err := w.SetRoles(map[string]record.Role{"r": {Budget: record.RoleBudget{Limit: limit}}}); err != nil {
		t.Fatal(err)
	}
	k := w.mint(func(k *record.Key) { activations(5)(k); k.Role = "r" })
	k.use()
	if code := k.use(); code != record.CodeActivationsExhausted {
		t.Fatalf("the role is not used up: %q", code)
	}
	s := w.mint(activations(5))
	if _, err := w.Suspend(limiter.Operator, s.id); err != nil {
		t.Fatal(err)
	}
	s.use()
	if events := heard.take(event.KeyAfterDeath); len(events) != 0 {
		t.Errorf("%+v", events)
	}
	next := s.rotate(0)
	s.expect("a string that was replaced", record.CodeKeyRevoked)
	if events := heard.take(event.KeyAfterDeath); len(events) != 1 || events[0].Key.ID != next.id {
		t.Errorf("a replaced string: %+v", events)
	}
}

func TestTheUseOfAReplacedStringIsToldWithItsClient(t *testing.T) {
	t.Parallel()
	w, heard := newHeardWorld(t)
	k := w.mint(activations(5))
	k.rotate(0)
	for i, from := range []netip.Addr{netip.MustParseAddr("192.0.2.66"), netip.MustParseAddr("192.0.2.67"), {}} { // the last has none, as on a unix socket
		live, refusal := w.Find(ctx, k.lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		if _, refusal = live.Number(live.Key(), k.lookup, from); refusal == nil || refusal.Code != record.CodeKeyRevoked {
			t.Fatalf("a string that was replaced: %+v", refusal)
		}
		want := ""
		if from.IsValid() {
			want = from.String()
		}
		if events := heard.take(event.KeyAfterDeath); len(events) != 1 || events[0].Count != 1 || events[0].From != want {
			t.Errorf("client %d: %+v, want one from %q", i, events, want)
		}
		w.clock.advance(2 * time.Hour)
	}
}

func TestALeakThatIsNotDurableYetIsNotSaidToBeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	w.disk.Fill()
	for range 2 {
		if done, err := w.Leak(ctx, limiter.Operator, k.lookup, false, false); !errors.Is(err, store.ErrNoSpace) || done.State != limiter.LeakRevoked {
			t.Errorf("on a full disk: %+v, %v", done, err)
		}
		if code := k.use(); code != record.CodeKeyRevoked {
			t.Errorf("used meanwhile: %q", code)
		}
	}
	w.disk.Heal()
	if done := w.leak(limiter.Operator, k.lookup, false); done.State != limiter.LeakRevoked {
		t.Errorf("once there is space: %+v", done)
	}
	if done := w.leak(limiter.Operator, k.lookup, false); done.State != limiter.LeakDead {
		t.Errorf("and once more: %+v", done)
	}
}
