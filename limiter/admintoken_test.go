package limiter_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// roles are some of a team's.
func teamRoles() map[string]record.Role {
	lead, member, auditor, wide := record.NewRole(), record.NewRole(), record.NewRole(), record.NewRole()
	lead.Permissions = []record.Permission{record.KeysCreate, record.KeysRead, record.KeysUpdate, record.KeysRevoke, record.TokensManage}
	lead.Sees = record.SeesRole
	lead.Max = record.Amounts{record.Activations: 500}
	member = lead
	member.Permissions, member.Sees = []record.Permission{record.KeysCreate, record.KeysRead}, record.SeesOwn
	member.Max[record.Activations] = 100
	auditor.Permissions, auditor.Sees = []record.Permission{record.AuditRead, record.KeysRead}, record.SeesAll
	wide.Permissions = member.Permissions
	return map[string]record.Role{"lead": lead, "member": member, "auditor": auditor, "wide": wide}
}

func newTeam(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.roles = teamRoles()
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	return w
}

// hire makes a token and returns its string and the caller that it stands for.
func (w *world) hire(by limiter.Caller, name, role string) (string, limiter.Caller) {
	w.t.Helper()
	secret, lookup, err := token.MintAdmin()
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.CreateToken(by, limiter.TokenSpec{Lookup: lookup, Name: name, Role: role}); err != nil {
		w.t.Fatal(err)
	}
	caller, err := w.Authenticate(secret.Reveal(), "192.0.2.1")
	if err != nil {
		w.t.Fatal(err)
	}
	return secret.Reveal(), caller
}

func TestAnAdminTokenWorksUntilItIsRevokedOrExpires(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	anna, caller := w.hire(limiter.Operator, "anna", "lead")
	if caller.Name != "anna" || caller.Role != "lead" || caller.From != "192.0.2.1" || caller.Token == "" {
		t.Errorf("the token stands for %+v", caller)
	}
	secret, lookup, err := token.MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	spec := limiter.TokenSpec{Lookup: lookup, Name: "ci", Role: "lead", ExpiresAt: w.clock.time().Add(time.Hour)}
	if _, err := w.CreateToken(limiter.Operator, spec); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if _, err := w.Authenticate(anna, ""); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	w.clock.advance(time.Hour)
	if _, err := w.Authenticate(secret.Reveal(), ""); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("an expired token: %v", err)
	}
	for range 2 {
		if _, err := w.RevokeToken(limiter.Operator, caller.Token); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Authenticate(anna, ""); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("a revoked token: %v", err)
	}
	w.kill(true)
	if _, err := w.Authenticate(anna, ""); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("a revoked token after a power cut: %v", err)
	}
	list, err := w.ListTokens(limiter.Operator)
	if err != nil || len(list) != 2 || list[1].LastUsedAt.IsZero() {
		t.Errorf("the list is %+v, %v", list, err)
	}
	if got, want := w.acts(caller.Token), "token.create token.revoke"; got != want {
		t.Errorf("the log says %s, want %s", got, want)
	}
	log := strings.Join(w.auditLines(), "\n")
	if strings.Contains(log, anna) || strings.Contains(log, lookup.String()) {
		t.Error("the log has what a token is known by")
	}
}

// TestATokenThatWasRevokedWorksNoMoreEvenIfThatIsNotDurableYet is about stores that
// take no commit: whoever revokes a token must not have to wait until they do.
func TestATokenThatWasRevokedWorksNoMoreEvenIfThatIsNotDurableYet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end        func(w *world, text, id string) error
		fail, heal func(w *world)
		acts       string
	}{
		"on a full disk": {
			end:  func(w *world, _, id string) error { _, err := w.RevokeToken(limiter.Operator, id); return err },
			fail: func(w *world) { w.disk.Fill() },
			heal: func(w *world) { w.disk.Heal(); w.SweepDue() },
			acts: "token.create token.revoke",
		},
		"before a clean stop": {
			end:  func(w *world, _, id string) error { _, err := w.RevokeToken(limiter.Operator, id); return err },
			fail: func(w *world) { w.disk.Fill() },
			heal: func(w *world) { w.disk.Heal(); w.restart() },
			acts: "token.create token.revoke",
		},
		"after a leak": {
			end: func(w *world, text, _ string) error {
				lookup, err := token.ParseAdmin(text)
				if err != nil {
					return err
				}
				_, err = w.Leak(ctx, limiter.Operator, lookup, true, false)
				return err
			},
			fail: func(w *world) { w.disk.Fill() },
			heal: func(w *world) { w.disk.Heal(); w.SweepDue() },
			acts: "token.create token.leak",
		},
		"where the store has failed": {
			end:  func(w *world, _, id string) error { _, err := w.RevokeToken(limiter.Operator, id); return err },
			fail: func(w *world) { w.fail(false) },
			heal: func(w *world) { w.heal(func() {}) },
			acts: "token.create token.revoke",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTeam(t)
			text, anna := w.hire(limiter.Operator, "anna", "lead")
			ended := func(when string) {
				t.Helper()
				if _, err := w.Authenticate(text, ""); !errors.Is(err, limiter.ErrToken) {
					t.Errorf("%s: authenticating answers %v", when, err)
				}
				if _, err := w.Standing(anna); !errors.Is(err, limiter.ErrToken) {
					t.Errorf("%s: a request that has begun before: %v", when, err)
				}
				list, err := w.ListTokens(limiter.Operator)
				if err != nil || len(list) != 1 || list[0].RevokedAt.IsZero() {
					t.Errorf("%s: the list is %+v, %v", when, list, err)
				}
			}
			c.fail(w)
			for range 2 {
				if err := c.end(w, text, anna.Token); err == nil {
					t.Fatal("said to be durable, which it is not")
				}
				ended("in memory")
			}
			_, lookup, err := token.MintAdmin()
			if err != nil {
				t.Fatal(err)
			}
			c.heal(w)
			if _, err := w.CreateToken(anna, limiter.TokenSpec{Lookup: lookup, Name: "heir", Role: "lead"}); !errors.Is(err, limiter.ErrToken) {
				t.Errorf("making another with it: %v", err)
			}
			ended("once the store is well")
			w.kill(true)
			ended("after a power cut")
			if got := w.acts(anna.Token); got != c.acts {
				t.Errorf("the log says %s, want %s", got, c.acts)
			}
		})
	}
}

func TestNobodyGivesMoreThanTheyHave(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, lead := w.hire(limiter.Operator, "lena", "lead")
	_, member := w.hire(limiter.Operator, "max", "member")
	_, auditor := w.hire(limiter.Operator, "ada", "auditor")
	soon := w.clock.time().Add(time.Hour)
	for i, test := range []struct {
		by   limiter.Caller
		role string
		ends time.Time
		want error
	}{
		{lead, "member", time.Time{}, nil},
		{lead, "lead", soon, nil},
		{lead, "auditor", time.Time{}, limiter.ErrForbidden}, // another right, and sees all
		{lead, "wide", time.Time{}, limiter.ErrForbidden},    // no ceiling
		{lead, "*", time.Time{}, limiter.ErrForbidden},
		{member, "member", time.Time{}, limiter.ErrForbidden},
		{auditor, "auditor", time.Time{}, limiter.ErrForbidden},
		{limiter.Caller{Name: "nobody"}, "member", time.Time{}, limiter.ErrForbidden},
		{limiter.Operator, "*", time.Time{}, nil},
	} {
		_, lookup, err := token.MintAdmin()
		if err != nil {
			t.Fatal(err)
		}
		spec := limiter.TokenSpec{Lookup: lookup, Name: fmt.Sprint("token ", i), Role: test.role, ExpiresAt: test.ends}
		if _, err := w.CreateToken(test.by, spec); !errors.Is(err, test.want) {
			t.Errorf("%s gives %s: %v, want %v", test.by.Name, test.role, err, test.want)
		}
	}
	var wrong *record.InvalidError
	for _, spec := range []limiter.TokenSpec{
		{Name: "", Role: "lead"}, {Name: "operator", Role: "lead"}, {Name: "ti1l", Role: "lead"}, {Name: "lena", Role: "lead"}, {Name: "l\u0435na", Role: "lead"},
		{Name: "new", Role: ""}, {Name: "new", Role: "nosuch"}, {Name: "new", Role: "lead", ExpiresAt: w.clock.time()},
	} {
		spec.Lookup = token.Lookup{1}
		if _, err := w.CreateToken(limiter.Operator, spec); !errors.As(err, &wrong) {
			t.Errorf("%+v: %v, want an InvalidError", spec, err)
		}
	}
}

func TestATokenEndsNoLaterThanTheOneItWasMadeWith(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, lookup, _ := token.MintAdmin()
	ends := w.clock.time().Add(time.Hour)
	first, err := w.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "lena", Role: "lead", ExpiresAt: ends})
	if err != nil {
		t.Fatal(err)
	}
	lena := limiter.Caller{Name: first.Name, Token: first.ID, Role: first.Role}
	second, err := w.CreateToken(lena, limiter.TokenSpec{Lookup: token.Lookup{2}, Name: "job", Role: "member"})
	if err != nil || !second.ExpiresAt.Equal(ends) {
		t.Errorf("it ends at %s, %v, want %s", second.ExpiresAt, err, ends)
	}
	var wrong *record.InvalidError
	spec := limiter.TokenSpec{Lookup: token.Lookup{3}, Name: "later", Role: "member", ExpiresAt: ends.Add(1)}
	if _, err := w.CreateToken(lena, spec); !errors.As(err, &wrong) {
		t.Errorf("a later end: %v", err)
	}
}

// TestATokenThatHasEndedMakesNoOther: a call that was under way when its token was
// revoked could make another, and outlive it.
func TestATokenThatHasEndedMakesNoOther(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, lena := w.hire(limiter.Operator, "lena", "lead")
	if _, err := w.RevokeToken(limiter.Operator, lena.Token); err != nil {
		t.Fatal(err)
	}
	if made, err := w.CreateToken(lena, limiter.TokenSpec{Lookup: token.Lookup{2}, Name: "job", Role: "member"}); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("%v: it has made %+v", err, made)
	}
	if all, err := w.ListTokens(limiter.Operator); err != nil || len(all) != 1 {
		t.Errorf("%v: there are %d tokens", err, len(all))
	}
}

func TestTokensAreSeenAndRevokedOnlyWithinOnesSight(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, lena := w.hire(limiter.Operator, "lena", "lead")
	_, other := w.hire(limiter.Operator, "omar", "lead")
	_, auditor := w.hire(limiter.Operator, "ada", "auditor")
	_, boss := w.hire(limiter.Operator, "boss", "*")
	list, err := w.ListTokens(lena)
	if err != nil || len(list) != 2 {
		t.Errorf("lena, who sees her role, sees %+v, %v", list, err)
	}
	for _, id := range []string{auditor.Token, boss.Token, "tok_nosuch"} {
		if _, err := w.RevokeToken(lena, id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("lena revokes %s: %v, want ErrNotFound", id, err)
		}
	}
	if _, err := w.RevokeToken(lena, other.Token); err != nil {
		t.Error(err)
	}
}

// TestTokensThatWereMadeWithOneAreFound: they live on when it ends, also below one that has
// ended before.
func TestTokensThatWereMadeWithOneAreFound(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, anna := w.hire(limiter.Operator, "anna", "*")
	_, ben := w.hire(anna, "ben", "lead")
	_, carl := w.hire(anna, "carl", "*")
	w.hire(carl, "dora", "auditor")
	_, eve := w.hire(ben, "eve", "member")
	_, lena := w.hire(limiter.Operator, "lena", "lead")
	for _, ended := range []limiter.Caller{carl, anna} {
		if _, err := w.RevokeToken(limiter.Operator, ended.Token); err != nil {
			t.Fatal(err)
		}
	}
	scout := record.NewRole()
	scout.Permissions, scout.Sees = []record.Permission{record.KeysRevoke}, record.SeesAll
	w.roles["scout"] = scout
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	_, sam := w.hire(limiter.Operator, "sam", "scout")
	for _, test := range []struct {
		by, of limiter.Caller
		want   []string
	}{
		{sam, anna, nil}, // who may not list tokens
		{limiter.Operator, anna, []string{"ben", "dora", "eve"}},
		{limiter.Operator, carl, []string{"dora"}},
		{limiter.Operator, eve, nil},
		{limiter.Operator, lena, nil},
		{ben, ben, []string{"eve"}},
		{lena, ben, nil}, // she does not see eve
		{lena, anna, nil},
	} {
		var got []string
		for _, m := range w.MadeWith(test.by, test.of.Token) {
			got = append(got, m.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s is told that %s made %v, want %v", test.by.Name, test.of.Name, got, test.want)
		}
	}
}

func TestUnknownTokensAreLimitedPerAddressAndReportedOnceAMinute(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	anna, _ := w.hire(limiter.Operator, "anna", "lead")
	refused := func() (n int) {
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		return strings.Count(strings.Join(w.auditLines(), "\n"), audit.ActTokenRefused)
	}
	var limited int
	for range 100 {
		secret, _, err := token.MintAdmin()
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Authenticate(secret.Reveal(), "198.51.100.9")
		switch {
		case errors.Is(err, limiter.ErrAttempts):
			limited++
		case !errors.Is(err, limiter.ErrToken):
			t.Fatal(err)
		}
	}
	if limited != 80 || refused() != 1 {
		t.Errorf("%d of 100 were limited, and the log has %d entries; want 80 and 1", limited, refused())
	}
	if _, err := w.Authenticate("garbage", "203.0.113.4"); !errors.Is(err, limiter.ErrToken) {
		t.Errorf("from another address: %v", err)
	}
	if _, err := w.Authenticate(anna, "198.51.100.9"); err != nil {
		t.Errorf("a good token from the same address: %v", err)
	}
	w.clock.advance(time.Minute)
	w.SweepAttempts()
	if refused() != 3 {
		t.Errorf("a minute later the log has %d entries, want 3: two addresses, and one count", refused())
	}
	if log := strings.Join(w.auditLines(), "\n"); !strings.Contains(log, `"attempts":{"after":99}`) {
		t.Errorf("the log does not say that there were 99 more: %s", log)
	}
}

func TestOneTokenDoesNotTakeAllFeeds(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, anna := w.hire(limiter.Operator, "anna", "lead")
	_, bob := w.hire(limiter.Operator, "bob", "lead")
	var last error
	for range 300 {
		feed, err := w.Subscribe(anna)
		if last = err; err != nil {
			break
		}
		defer feed.Close()
	}
	if !errors.Is(last, event.ErrFeeds) {
		t.Errorf("one token reads 300 feeds: %v, want ErrFeeds", last)
	}
	for _, by := range []limiter.Caller{bob, limiter.Operator} {
		feed, err := w.Subscribe(by)
		if err != nil {
			t.Fatalf("%s, after another took all it could: %v", by.Name, err)
		}
		feed.Close()
	}
}

func TestNamesHoldNothingThatSteersATerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"a\x1b[2J", "a\u009b2J", "a\u202eb", "a\u2028b", "a\u2066b"} {
		_, lookup, err := token.MintKey()
		if err != nil {
			t.Fatal(err)
		}
		spec := &record.Key{Name: name, Upstream: "mock", Custody: record.CustodyHeld, Limit: record.NoLimits()}
		spec.Limit[record.Activations] = 1
		var wrong *record.InvalidError
		if _, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup}); !errors.As(err, &wrong) {
			t.Errorf("a key named %q: %v, want that it is refused", name, err)
		}
	}
}
