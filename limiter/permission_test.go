package limiter_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	keys "github.com/till-proxy/till/token"
)

// act is an administrative method and the permission that it takes.
type act struct {
	permission record.Permission
	onKey      bool // it is about one key, which must be seen
	prepare    func(w *world, id string)
	do         func(w *world, by limiter.Caller, id string) error
}

func lookup() keys.Lookup {
	_, l, err := keys.MintKey()
	if err != nil {
		panic(err)
	}
	return l
}

func spec() *record.Key {
	return &record.Key{Upstream: "openai", Custody: "held", Limit: record.Amounts{5, -1, -1, -1}, SelfRevoke: true}
}

// acts has every method and function of the package that takes a Caller and
// does something for it.
var acts = map[string]act{
	"Mint": {record.KeysCreate, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.Mint(by, spec(), limiter.Birth{Lookup: lookup()})
		return err
	}},
	"Get": {record.KeysRead, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.Get(by, id)
		return err
	}},
	"Usage": {record.KeysRead, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.Usage(by, id)
		return err
	}},
	"List": {record.KeysRead, true, nil, func(w *world, by limiter.Caller, id string) error {
		page, err := w.List(ctx, by, limiter.Filter{Query: id})
		if err == nil && len(page.Keys) == 0 {
			return store.ErrNotFound
		}
		return err
	}},
	"CredentialFingerprint": {record.KeysRead, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.CredentialFingerprint(by, keys.NewSecret("sk-real"))
		return err
	}},
	"Change": {record.KeysUpdate, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.Change(ctx, by, id, 0, func(k *record.Key) error { k.Name = "new"; return nil })
		return err
	}},
	"GrantMore": {record.KeysUpdate, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.GrantMore(ctx, by, id, limiter.More{Activations: 1})
		return err
	}},
	"Forget": {record.KeysUpdate, true, func(w *world, id string) {
		if _, _, err := w.Revoke(ctx, limiter.Operator, id, ""); err != nil {
			w.t.Fatal(err)
		}
	}, func(w *world, by limiter.Caller, id string) error { return w.Forget(ctx, by, id) }},
	"Suspend": {record.KeysRevoke, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.Suspend(by, id)
		return err
	}},
	"Resume": {record.KeysRevoke, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.Resume(by, id)
		return err
	}},
	"Revoke": {record.KeysRevoke, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, _, err := w.Revoke(ctx, by, id, "")
		return err
	}},
	"RevokeMany": {record.KeysRevoke, true, nil, func(w *world, by limiter.Caller, id string) error {
		j, err := w.RevokeMany(by, limiter.Filter{Query: id}, false, "")
		if err != nil {
			return err
		}
		done, err := w.Await(ctx, by, j.Number)
		if err == nil && done.Matched == 0 {
			return store.ErrNotFound
		}
		return err
	}},
	"CountMatches": {record.KeysRevoke, true, nil, func(w *world, by limiter.Caller, id string) error {
		if err := w.Ping(ctx); err != nil { // what is stamped while a commit runs does not count
			return err
		}
		n, err := w.CountMatches(ctx, by, limiter.Filter{Query: id})
		if err == nil && n.Matched == 0 {
			return store.ErrNotFound
		}
		return err
	}},
	"Jobs": {record.KeysRevoke, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.Jobs(by)
		return err
	}},
	"JobOf": {record.KeysRevoke, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.JobOf(by, "99")
		return unless(err, store.ErrNotFound)
	}},
	"Await": {record.KeysRevoke, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.Await(ctx, by, 99)
		return unless(err, store.ErrNotFound)
	}},
	"Leak": {record.KeysRevoke, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.Leak(ctx, by, lookup(), false, false)
		return err
	}},
	"Stale": {record.KeysRead, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.Stale(ctx, by, "", 0, "")
		return err
	}},
	"Rotate": {record.KeysRotate, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, _, err := w.Rotate(by, id, record.Issue{Lookup: lookup()}, 0)
		return err
	}},
	"Rotating": {record.KeysRotate, true, nil, func(w *world, by limiter.Caller, id string) error {
		_, err := w.Rotating(by, id)
		return err
	}},
	"Audit": {record.AuditRead, true, nil, func(w *world, by limiter.Caller, id string) error {
		page, err := w.Audit(ctx, by, audit.Filter{Key: id})
		if err == nil && len(page.Entries) == 0 {
			return store.ErrNotFound
		}
		return err
	}},
	"AuditVerify": {record.AuditRead, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.AuditVerify(ctx, by)
		return err
	}},
	"ExportAudit": {record.AuditRead, false, nil, func(w *world, by limiter.Caller, _ string) error {
		err := w.ExportAudit(ctx, by, func([]byte) error { return nil })
		if err != nil && w.Allows(by, record.AuditRead) && strings.Contains(err.Error(), "sees all") {
			return nil // see TestTheAuditLogIsShownWithinOnesSight
		}
		return err
	}},
	"CreateToken": {record.TokensManage, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.CreateToken(by, limiter.TokenSpec{Lookup: lookup(), Name: lookup().String(), Role: by.Role})
		return err
	}},
	"ListTokens": {record.TokensManage, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.ListTokens(by)
		return err
	}},
	"RevokeToken": {record.TokensManage, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.RevokeToken(by, by.Token)
		if by.Token == "" && errors.Is(err, store.ErrNotFound) {
			return nil // the operator has none
		}
		return err
	}},
	"Subscribe": {record.KeysRead, false, nil, func(w *world, by limiter.Caller, _ string) error {
		feed, err := w.Subscribe(by)
		if err == nil {
			feed.Close()
		}
		return err
	}},
	"AuditLink": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error { return w.AuditLink(by) }},
	"ListHooks": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.ListHooks(by)
		return err
	}},
	"RepairClock": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.RepairClock(by)
		return err
	}},
	"Backup": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.Backup(ctx, by, new(bytes.Buffer), false)
		return err
	}},
	"ListNodes": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.ListNodes(by)
		return err
	}},
	"RemoveNode": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.RemoveNode(ctx, by, "till-2")
		return unless(err, limiter.ErrNoNode) // there is one only
	}},
	"SealRotated": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		return w.SealRotated(by, keys.SealKeyID{1})
	}},
	"SealUses": {record.Everything, false, nil, func(w *world, by limiter.Caller, _ string) error {
		_, err := w.SealUses(ctx, by)
		return err
	}},
}

// unless is an error that is not the one that is expected.
func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// TestEveryPermissionOnEveryActAndKey gives each permission alone, with each
// sight, and tries every act on an own key, one of the role and one of neither.
func TestEveryPermissionOnEveryActAndKey(t *testing.T) {
	t.Parallel()
	given := append([]record.Permission{""}, record.Permissions...)
	for _, sees := range record.Sights {
		for _, has := range given {
			t.Run(fmt.Sprintf("%s sees %s", has, sees), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				full := record.NewRole()
				full.Permissions, full.Sees = record.Permissions, sees
				narrow := full
				narrow.Permissions = nil
				if has != "" {
					narrow.Permissions = []record.Permission{has}
				}
				use := func(r record.Role) {
					if err := w.SetRoles(map[string]record.Role{"r": r}); err != nil {
						t.Fatal(err)
					}
				}
				use(full)
				_, colleague := w.hire(limiter.Operator, "colleague", "r")
				for name, act := range acts {
					use(full)
					_, by := w.hire(limiter.Operator, name, "r")
					minted := map[string]string{}
					for whose, minter := range map[string]limiter.Caller{"own": by, "role": colleague, "foreign": limiter.Operator} {
						v, err := w.Mint(minter, spec(), limiter.Birth{Lookup: lookup()})
						if err != nil {
							t.Fatal(err)
						}
						minted[whose] = v.ID
					}
					seen := map[string]bool{
						"own": true, "role": sees != record.SeesOwn, "foreign": sees == record.SeesAll,
					}
					for whose, id := range minted {
						if act.prepare != nil {
							act.prepare(w, id)
						}
						use(narrow)
						err := act.do(w, by, id)
						var want error
						switch {
						case has != act.permission:
							want = limiter.ErrForbidden
						case act.onKey && !seen[whose]:
							want = store.ErrNotFound
						}
						if !errors.Is(err, want) || want == nil && err != nil {
							t.Errorf("%s on the %s key: %v, want %v", name, whose, err, want)
						}
						if has == act.permission && act.onKey && !seen[whose] {
							if err := act.do(w, limiter.Operator, id); err != nil {
								t.Errorf("%s by the operator: %v", name, err)
							}
						}
						if !act.onKey {
							break
						}
						use(full)
					}
				}
			})
		}
	}
}

// TestAClosedStoreObeysOnlyTheOperator is about what is done without a limiter.
func TestAClosedStoreObeysOnlyTheOperator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, by := range []limiter.Caller{{}, {Name: "operator"}, {Name: "anna", Role: "lead", Token: "tok_1"}, limiter.Holder(&record.Key{ID: "key_1"}, "")} {
		for name, do := range map[string]func() error{
			"Forfeit": func() error {
				_, err := limiter.Forfeit(limiter.Offline{Store: w.disk.Open(), Anchor: w.anchor, Now: time.Now()}, by, w.roles)
				return err
			},
			"ForfeitShared": func() error {
				_, err := limiter.ForfeitShared(nil, by, w.roles, time.Now(), discard)
				return err
			},
			"ImagineForfeit": func() error {
				_, err := limiter.ImagineForfeit(w.disk.Open(), by, w.roles, time.Now())
				return err
			},
			"Restore": func() error {
				_, err := limiter.Restore(limiter.Offline{Store: w.disk.Open(), Anchor: w.anchor, Now: time.Now()}, by, bytes.NewReader(nil), false)
				return err
			},
		} {
			if err := do(); !errors.Is(err, limiter.ErrForbidden) {
				t.Errorf("%s by %+v: %v", name, by, err)
			}
		}
	}
}

// TestTheHolderOfAKeyMayOnlyLookAndRevoke is about callers with a key's string.
func TestTheHolderOfAKeyMayOnlyLookAndRevoke(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine, other := w.mint(activations(1)), w.mint(activations(1))
	kept := w.mint(func(k *record.Key) { k.Limit[0], k.SelfRevoke = 1, false })
	v := mine.view()
	holder := limiter.Holder(&v.Key, "192.0.2.1")
	for name, act := range acts {
		if act.onKey {
			if err := act.do(w, holder, other.id); !errors.Is(err, limiter.ErrForbidden) && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s on another key: %v", name, err)
			}
		}
		if act.permission != record.KeysRead && act.permission != record.KeysRevoke {
			if err := act.do(w, holder, mine.id); !errors.Is(err, limiter.ErrForbidden) {
				t.Errorf("%s: %v, want ErrForbidden", name, err)
			}
		}
	}
	v = kept.view()
	if _, _, err := w.Revoke(ctx, limiter.Holder(&v.Key, ""), kept.id, ""); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("with self_revoke false: %v", err)
	}
	if _, _, err := w.Revoke(ctx, holder, mine.id, ""); err != nil {
		t.Error(err)
	}
}
