package till

import (
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/webhook"
)

// reloads are configurations of one process that are loaded one after the other. Their
// store is on a simulated disk.
type reloads struct {
	t      *testing.T
	e      *engine
	disk   *storetest.Disk
	opened []string // by which of them, each time
	late   chan struct{}
	held   int    // the opening that waits for late
	broken string // the one that cannot open it
}

// storageOf is how one of them opens the store.
type storageOf struct {
	*reloads
	name string
}

func (s storageOf) Place() Place {
	at := s.e.place
	at.Way = s.name
	return at
}

func (s storageOf) OpenStore(StoreOpening) (OpenedStore, error) {
	if s.name == s.broken {
		return OpenedStore{}, errors.New("password authentication failed")
	}
	if s.opened = append(s.opened, s.name); len(s.opened) == s.held {
		<-s.late
	}
	return OpenedStore{Store: s.disk.Open()}, nil
}

// newReloads makes two configurations, and puts the first into force. Each has a role of
// its name.
func newReloads(t *testing.T, dir string) (r *reloads, first, second *App) {
	r = &reloads{t: t, e: newEngine(Place{Identity: dir, Dir: dir}, nil), disk: storetest.NewDisk()}
	r.e.patience = patience
	first, second = r.configure("first"), r.configure("second")
	if err := r.e.enter(first); err != nil {
		t.Fatal(err)
	}
	return r, first, second
}

func (r *reloads) configure(name string) *App {
	return &App{engine: r.e, ctx: caddy.Context{Context: r.t.Context()}, sealing: new(sealing), storage: storageOf{r, name}, roles: map[string]record.Role{name: record.NewRole()}, slogger: slog.New(slog.DiscardHandler)}
}

// inForce fails the test unless this one's role is in force, and no other.
func (r *reloads) inForce(want string) {
	r.t.Helper()
	for _, name := range []string{"first", "second"} {
		_, err := r.mint(name)
		if (err == nil) != (name == want) {
			r.t.Errorf("%s is to be in force: a key of role %s: %v", want, name, err)
		}
	}
}

// use makes a request with a key, and returns the code with which it was refused.
func (r *reloads) use(v limiter.View) record.Code {
	r.t.Helper()
	k, refusal := r.e.current().Find(r.t.Context(), v.Lookup)
	if refusal != nil {
		return refusal.Code
	}
	var g limiter.Grant
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}
	if refusal := k.Reserve(r.t.Context(), ask, &g); refusal != nil {
		return refusal.Code
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return ""
}

func (r *reloads) mint(role string) (limiter.View, error) {
	_, lookup, err := token.MintKey()
	if err != nil {
		r.t.Fatal(err)
	}
	l := r.e.current()
	if l == nil {
		r.t.Fatal("the store is closed")
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits(), Role: role}
	spec.Limit[record.Activations] = 1
	return l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup})
}

// ended is a key of a role that was revoked two hours ago.
func (r *reloads) ended(role string) limiter.View {
	r.t.Helper()
	v, err := r.mint(role)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, _, err := r.e.current().Revoke(r.t.Context(), limiter.Operator, v.ID, "it has ended"); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(2 * time.Hour)
	return v
}

func (r *reloads) end() {
	r.t.Helper()
	if err := r.e.Destruct(); err != nil {
		r.t.Error(err)
	}
}

// TestARefusedConfigurationDeletesNothing: it may have started before another app of Caddy
// could not, such as one that cannot listen, and the previous configuration goes on.
func TestARefusedConfigurationDeletesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r, first, second := newReloads(t, dir)
		defer r.end()
		v := r.ended("first")
		second.Retain = caddy.Duration(time.Minute)
		if err := r.e.enter(second); err != nil {
			t.Fatal(err)
		}
		r.inForce("second")
		time.Sleep(2 * time.Minute)
		r.e.leave(second)
		r.inForce("first")
		time.Sleep(2 * time.Minute)
		if _, err := r.e.current().Get(limiter.Operator, v.ID); err != nil {
			t.Errorf("the ended key: %v", err)
		}

		if err := r.e.enter(second); err != nil { // and now it is accepted
			t.Fatal(err)
		}
		r.e.leave(first)
		r.inForce("second")
		time.Sleep(2 * time.Minute)
		if _, err := r.e.current().Get(limiter.Operator, v.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the ended key, once it need not be kept: %v", err)
		}
	})
}

// TestWhileTwoConfigurationsRunWhatEitherKeepsIsKept.
func TestWhileTwoConfigurationsRunWhatEitherKeepsIsKept(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	hook := func(url string) event.Hook { return event.Hook{URL: url} }
	budget := func(renews record.Renewal, most int64) record.RoleBudget {
		return record.RoleBudget{Limit: record.Amounts{record.Activations: most}, Renews: renews}
	}
	day1, day2, month1, month2 := budget(record.Daily, 1), budget(record.Daily, 2), budget(record.Monthly, 1), budget(record.Monthly, 2)
	roles := func(budgets ...record.RoleBudget) map[string]record.Role {
		all := make(map[string]record.Role)
		for i, b := range budgets {
			all[string(rune('a'+i))] = record.Role{Budget: b}
		}
		return all
	}
	for _, test := range []struct{ next, former, want storeOptions }{
		{storeOptions{}, storeOptions{}, storeOptions{retain: limiter.DefaultRetain, staleAfter: limiter.DefaultStaleAfter}},
		{storeOptions{keepAudit: day, retain: day, staleAfter: day, staleRevoke: true}, storeOptions{},
			storeOptions{retain: limiter.DefaultRetain, staleAfter: limiter.DefaultStaleAfter}},
		{storeOptions{}, storeOptions{keepAudit: day, retain: 1000 * day, staleAfter: 1000 * day, staleRevoke: true},
			storeOptions{retain: 1000 * day, staleAfter: 1000 * day}},
		{storeOptions{keepAudit: day, retain: 2 * day, staleAfter: day, staleRevoke: true}, storeOptions{keepAudit: 2 * day, retain: day, staleAfter: 2 * day, staleRevoke: true},
			storeOptions{keepAudit: 2 * day, retain: 2 * day, staleAfter: 2 * day, staleRevoke: true}},
		{storeOptions{hooks: []event.Hook{hook("a"), hook("b")}, retain: day, staleAfter: day}, storeOptions{hooks: []event.Hook{hook("c"), hook("b")}, retain: day, staleAfter: day},
			storeOptions{hooks: []event.Hook{hook("a"), hook("b"), hook("c")}, retain: day, staleAfter: day}},
		{storeOptions{roles: roles(day1, month1), retain: day, staleAfter: day}, storeOptions{roles: roles(day2, month2), retain: day, staleAfter: day},
			storeOptions{roles: roles(day1, month1), retain: day, staleAfter: day}},
		{storeOptions{roles: roles(day1, month1), retain: day, staleAfter: day}, storeOptions{roles: roles(month2), retain: day, staleAfter: day},
			storeOptions{roles: roles(month2, month1), retain: day, staleAfter: day}},
	} {
		if test.next.keepOf(test.former); !reflect.DeepEqual(test.next, test.want) {
			t.Errorf("%+v, want %+v", test.next, test.want)
		}
	}
}

// TestARefusedConfigurationRenewsNoBudget: in a role's shorter window, nothing would be used.
func TestARefusedConfigurationRenewsNoBudget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r, first, second := newReloads(t, dir)
		defer r.end()
		limited := func(renews record.Renewal, most int64) record.Role {
			role := record.NewRole()
			role.Budget.Limit[record.Activations], role.Budget.Renews = most, renews
			return role
		}
		first.roles["shared"], second.roles["shared"] = limited(record.Monthly, 1), limited(record.Daily, 1)
		time.Sleep(48 * time.Hour) // a month begins with a day
		r.e.leave(first)
		if err := r.e.enter(first); err != nil {
			t.Fatal(err)
		}
		uses := func(want record.Code) {
			t.Helper()
			v, err := r.mint("shared")
			if err != nil {
				t.Fatal(err)
			}
			if code := r.use(v); code != want {
				t.Errorf("the role's budget: %q, want %q", code, want)
			}
		}
		uses("")
		uses(record.CodeActivationsExhausted)
		if err := r.e.enter(second); err != nil {
			t.Fatal(err)
		}
		uses(record.CodeActivationsExhausted)
		r.e.leave(second)
		uses(record.CodeActivationsExhausted)
		if err := r.e.enter(second); err != nil { // and now it is accepted
			t.Fatal(err)
		}
		r.e.leave(first)
		uses("")
	})
}

// TestARefusedConfigurationDropsNoMessages that wait for a webhook that it does not have.
func TestARefusedConfigurationDropsNoMessages(t *testing.T) {
	t.Parallel()
	r, first, second := newReloads(t, t.TempDir())
	defer r.end()
	hook, err := webhook.NewEndpoint("http://127.0.0.1:1/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hook.SetSecrets([]string{"a secret of 24 characters"}); err != nil {
		t.Fatal(err)
	}
	first.hooks = []*webhook.Endpoint{hook}
	r.e.leave(first)
	if err := r.e.enter(first); err != nil {
		t.Fatal(err)
	}
	if _, err := r.mint("first"); err != nil {
		t.Fatal(err)
	}
	waiting := func(n int64, hooks int) {
		t.Helper()
		states, err := r.e.current().Outbox().Hooks()
		sum := int64(0)
		for _, s := range states {
			sum += s.Pending
		}
		if err != nil || len(states) != hooks || sum != n {
			t.Errorf("%d messages wait for %d webhooks, want %d for %d; %v", sum, len(states), n, hooks, err)
		}
	}
	waiting(1, 1)
	if err := r.e.enter(second); err != nil {
		t.Fatal(err)
	}
	r.e.leave(second)
	waiting(1, 1)
	if err := r.e.enter(second); err != nil {
		t.Fatal(err)
	}
	r.e.leave(first)
	waiting(0, 0)
	if err := r.e.enter(first); err != nil {
		t.Fatal(err)
	}
	r.e.leave(second)
	waiting(0, 1)
}

// TestTheStoreIsOpenedAsTheConfigurationInForceSays, whoever asks for it: requests also
// come by one that has not started yet, perhaps never will, or has stopped.
func TestTheStoreIsOpenedAsTheConfigurationInForceSays(t *testing.T) {
	t.Parallel()
	r, first, second := newReloads(t, t.TempDir())
	defer r.end()
	failsAndOpens := func(by *App) {
		t.Helper()
		failIn(t, r.disk, r.e.current())
		r.disk.Heal()
		r.e.mu.Lock()
		r.e.nextTry = time.Time{}
		r.e.mu.Unlock()
		if _, err := by.Limiter(); err != nil {
			t.Fatal(err)
		}
		r.e.mu.Lock()
		_ = r.e.wait(0) // a request does not wait for it for as long as a busy machine may take
		r.e.mu.Unlock()
	}
	failsAndOpens(second)
	r.inForce("first")
	if err := r.e.enter(second); err != nil {
		t.Fatal(err)
	}
	failsAndOpens(first)
	r.e.leave(first)
	r.inForce("second")
	failsAndOpens(first)
	r.inForce("second")
	if want := []string{"first", "first", "second", "second", "second", "second"}; !slices.Equal(r.opened, want) { // the third tries it
		t.Errorf("opened by %v, want %v", r.opened, want)
	}
}

// TestAStoreThatIsOpenLateHasTheSettingsInForce: while it was being opened, perhaps from a
// disk or a database that did not answer, another configuration has come into force.
func TestAStoreThatIsOpenLateHasTheSettingsInForce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ by, inForce string }{{"first", "second"}, {"second", "second"}, {"first", "first"}, {"second", "first"}} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			r, first, second := newReloads(t, dir)
			defer r.end()
			v := r.ended("first")
			second.Retain = caddy.Duration(time.Minute)
			r.late, r.held = make(chan struct{}), 3 // before that, the second one tries whether it can be opened
			if test.by == "first" {
				r.held = 2
				failIn(t, r.disk, r.e.current())
				r.disk.Heal()
				go func() { _, _ = first.Limiter() }()
				synctest.Wait()
			}
			if err := r.e.enter(second); err != nil {
				t.Fatal(err)
			}
			if test.inForce == "first" {
				r.e.leave(second)
			} else {
				r.e.leave(first)
			}
			synctest.Wait()
			if r.e.current() != nil || r.opened[len(r.opened)-1] != test.by {
				t.Fatalf("it is open, or is opened by %v", r.opened)
			}
			close(r.late)
			time.Sleep(time.Second)
			r.inForce(test.inForce)
			time.Sleep(2 * time.Minute)
			_, err := r.e.current().Get(limiter.Operator, v.ID)
			if keeps := test.inForce == "first"; keeps && err != nil || !keeps && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("opened by the %s, and in force is the %s: %v", test.by, test.inForce, err)
			}
		})
	}
}

// TestWhatARefusedConfigurationHasOpenedIsUsedAsBefore: the store can no longer be reached
// as the previous one says, and its roles hold all the same.
func TestWhatARefusedConfigurationHasOpenedIsUsedAsBefore(t *testing.T) {
	t.Parallel()
	r, _, second := newReloads(t, t.TempDir())
	defer r.end()
	r.broken = "first"
	if err := r.e.enter(second); err != nil {
		t.Fatal(err)
	}
	r.inForce("second")
	r.e.leave(second)
	r.inForce("first")
}

// TestAConfigurationThatIsCleanedUpWithoutAStopIsLeft: Caddy does that if something fails
// after all apps have started, such as a loader of configurations.
func TestAConfigurationThatIsCleanedUpWithoutAStopIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine does not end
		r, _, second := newReloads(t, dir)
		defer r.end()
		second.sources = []*fileSource{{what: "a secret", readOnce: true}}
		if err := r.e.enter(second); err != nil {
			t.Fatal(err)
		}
		second.watch()
		if err := second.Cleanup(); err != nil {
			t.Fatal(err)
		}
		r.inForce("first")
		if err := second.Cleanup(); err != nil {
			t.Fatal(err)
		}
		r.inForce("first")
	})
}
