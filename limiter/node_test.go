package limiter_test

import (
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// unfollowed are the spaces of the store that no memory of another node depends on,
// and why.
var unfollowed = map[string]string{
	"s/": "a salt is written with the record of its key",
	"a/": "each transaction on a budget reads it",
	"q/": "a part belongs to one node",
	"n/": "belongs to one node, except for what is told by events and of lockdowns",
	"c/": "a shared store has no digest",
	"d/": "is read by the sweep that needs it",
	"h/": "is read when it is shown",
	"x/": "is read when it is needed",
	"o/": "is read by the node that delivers",
	"u/": "is read when it is shown or added to",
	"i/": "is read by each call that has a key",
	"m/": "is read when it is needed",
}

func TestEverySpaceOfTheStoreIsFollowedOrNeedNotBe(t *testing.T) {
	t.Parallel()
	space := regexp.MustCompile(`^[a-z]/$`)
	found := make(map[string]bool)
	for _, path := range []string{"record/*.go", "*.go"} {
		files, err := filepath.Glob(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			tree, err := parser.ParseFile(gotoken.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == gotoken.STRING {
					if text, err := strconv.Unquote(lit.Value); err == nil && len(text) >= 2 && space.MatchString(text[:2]) && !strings.Contains(text, " ") {
						found[text[:2]] = true
					}
				}
				return true
			})
		}
	}
	if len(found) < len(unfollowed) {
		t.Fatalf("only %d spaces were found", len(found))
	}
	for space := range found {
		row := []byte(space + "i/something")
		if follows, why := limiter.Follows(row), unfollowed[space]; follows == (why != "") {
			t.Errorf("space %s is followed: %t; and it need not be: %q", space, follows, why)
		}
	}
}

func TestAStoreThatNodesShareHasNoAnchor(t *testing.T) {
	t.Parallel()
	s := storetest.NewCluster().Node("node-a")
	defer s.Close()
	_, err := limiter.Open(limiter.Options{Store: s, Anchor: filepath.Join(t.TempDir(), "anchor")})
	if err == nil || !strings.Contains(err.Error(), "anchor") || !strings.Contains(err.Error(), "Store") {
		t.Errorf("opening it with an anchor: %v", err)
	}
}

func TestANodeThatHasLostTouchRefusesEverythingAndCutsWhatRuns(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.mint(activations(10_000))
		there := k.on(p.b)
		p.busy(there)
		g, refusal := there.ask()
		if refusal != nil {
			t.Fatal(refusal.Message)
		}
		synctest.Wait()
		p.cluster.Cut("node-b")
		if code := there.use(); code != "" {
			t.Errorf("at once: %s", code)
		}
		p.advance(8 * time.Second)
		_, refusal = there.ask()
		if refusal == nil || refusal.Code != record.CodeStoreUnavailable || refusal.RetryAfter == 0 || !strings.Contains(refusal.Message, "lost touch with the database") {
			t.Errorf("after eight seconds: %+v", refusal)
		}
		if cut := g.Cut(); cut == nil || cut.Code != record.CodeStoreUnavailable || cut.RetryAfter == 0 {
			t.Errorf("the stream: %+v", cut)
		}
		if _, refusal := p.b.Find(ctx, lookup()); refusal == nil || refusal.Code != record.CodeStoreUnavailable {
			t.Errorf("an unknown key: %+v", refusal)
		}
		if err := p.b.Trouble(ctx); !errors.Is(err, store.ErrStale) {
			t.Errorf("its trouble is %v", err)
		}
		g.Settle(record.Amounts{record.Activations: 1})
		if code := k.use(); code != "" {
			t.Errorf("the other node: %s", code)
		}
		v, _, err := p.a.Revoke(ctx, limiter.Operator, k.id, "")
		if err != nil || len(v.Pending) > 0 { // its session has ended, so it must have refused
			t.Errorf("revoking without it: pending on %q, %v", v.Pending, err)
		}
		p.cluster.Heal("node-b")
		synctest.Wait()
		if code := there.use(); code != record.CodeKeyRevoked {
			t.Errorf("back again: %q", code)
		}
	})
}

func TestAnActNamesTheNodesThatHaveNotFollowed(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(p *pair, k *key) ([]string, error){
		"revoke": func(p *pair, k *key) ([]string, error) {
			v, _, err := p.a.Revoke(ctx, limiter.Operator, k.id, "")
			return v.Pending, err
		},
		"suspend": func(p *pair, k *key) ([]string, error) {
			v, err := p.a.Suspend(limiter.Operator, k.id)
			return v.Pending, err
		},
		"rotate": func(p *pair, k *key) ([]string, error) {
			v, _, err := p.a.Rotate(limiter.Operator, k.id, record.Issue{Lookup: lookup()}, 0)
			return v.Pending, err
		},
		"lock down": func(p *pair, k *key) ([]string, error) {
			now, _, err := p.a.lockdown.Set(limiter.Operator, "")
			return now.Pending, err
		},
		"revoke many": func(p *pair, k *key) ([]string, error) {
			job, err := p.a.RevokeMany(limiter.Operator, limiter.Filter{}, true, "")
			return job.Pending, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			together(t, nil, func(t *testing.T, p *pair) {
				k := p.a.mint(activations(10))
				hangs, goOn := make(chan struct{}), make(chan struct{})
				_, refusal := k.on(p.b).ask(func(a *limiter.Ask) {
					a.OnCut = func(*record.Refusal) { close(hangs); <-goOn }
				})
				if refusal != nil {
					t.Fatal(refusal.Message)
				}
				began := time.Now()
				pending, err := act(p, k)
				<-hangs
				if err != nil || !slices.Equal(pending, []string{"node-b"}) {
					t.Errorf("pending on %q, %v", pending, err)
				}
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("it waited for %s", took)
				}
				if _, refusal := k.on(p.b).ask(); refusal == nil {
					t.Error("meanwhile the node admits the key")
				}
				close(goOn)
				if pending := p.a.Pending(); len(pending) > 0 {
					t.Errorf("in the end still pending on %q", pending)
				}
			})
		})
	}
}

func TestANodeThatHasMissedWhatWasToldReadsEverythingAgain(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		keys := p.a.MintMany(300, func(int, *record.Key) {})
		for _, k := range keys {
			if code := k.on(p.b).use(); code != "" {
				t.Fatal(code)
			}
		}
		synctest.Wait()
		p.cluster.Cut("node-b")
		p.advance(time.Minute)
		for i, k := range keys {
			if i%2 == 0 {
				if _, _, err := p.a.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
		p.cluster.Heal("node-b")
		synctest.Wait()
		for i, k := range keys {
			_, refusal := k.on(p.b).ask()
			if code, want := codeOf(refusal), []record.Code{record.CodeKeyRevoked, ""}[i%2]; code != want {
				t.Fatalf("key %d: %+v, want %q", i, refusal, want)
			}
		}
	})
}

func TestAnAdminTokenEndsOnEveryNode(t *testing.T) {
	t.Parallel()
	roles := map[string]record.Role{"maker": {Permissions: []record.Permission{record.KeysCreate}}}
	together(t, roles, func(t *testing.T, p *pair) {
		secret, lookup, err := token.MintAdmin()
		if err != nil {
			t.Fatal(err)
		}
		made, err := p.a.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "maker"})
		if err != nil || len(made.Pending) > 0 {
			t.Fatalf("making it: pending on %q, %v", made.Pending, err)
		}
		if by, err := p.b.Authenticate(secret.Reveal(), "192.0.2.1"); err != nil || by.Token != made.ID {
			t.Fatalf("on the other node it stands for %+v, %v", by, err)
		}
		synctest.Wait()
		p.cluster.Cut("node-b")
		p.advance(8 * time.Second)
		if _, err := p.b.Authenticate(secret.Reveal(), "192.0.2.1"); !errors.Is(err, store.ErrStale) {
			t.Errorf("on a node that has lost touch: %v", err)
		}
		if _, err := p.b.Standing(limiter.Caller{Name: "anna", Token: made.ID, Role: "maker"}); !errors.Is(err, store.ErrStale) {
			t.Errorf("going on there: %v", err)
		}
		p.cluster.Heal("node-b")
		synctest.Wait()
		done, err := p.a.RevokeToken(limiter.Operator, made.ID)
		if err != nil || len(done.Pending) > 0 {
			t.Fatalf("pending on %q, %v", done.Pending, err)
		}
		if _, err := p.b.Authenticate(secret.Reveal(), "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// busy uses a key so fast that its node reserves ahead, and returns how often.
func (p *pair) busy(k *key) (used int64) {
	k.w.t.Helper()
	for used < 1000 {
		if code := k.use(); code != "" {
			k.w.t.Fatal(code)
		}
		used++
		p.cluster.Advance(time.Millisecond)
		memory, _, err := k.w.Reserved(k.id)
		if err != nil {
			k.w.t.Fatal(err)
		}
		if used > 100 && memory[record.Activations] > used {
			return used
		}
	}
	k.w.t.Fatal("nothing is reserved ahead")
	return 0
}

func TestAReserveThatAnotherNodeLacksComesBackAtOnce(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.mint(activations(10_000))
		there := k.on(p.b)
		used := p.busy(there)
		account, err := record.KeyAccount(k.id)
		if err != nil {
			t.Fatal(err)
		}
		p.b.Recalled(account)
		synctest.Wait()
		if memory, stored, err := p.b.Reserved(k.id); err != nil || memory[record.Activations] != used || stored[record.Activations] != used {
			t.Errorf("%d are still reserved in memory and %d in the store, %v", memory[record.Activations], stored[record.Activations], err)
		}
	})
}

func TestAKeyThatWasStoppedElsewhereGivesBackItsReserve(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.mint(activations(10_000))
		used := p.busy(k.on(p.b))
		if v, err := p.a.Suspend(limiter.Operator, k.id); err != nil || len(v.Pending) > 0 {
			t.Fatal(v.Pending, err)
		}
		synctest.Wait()
		if memory, stored, err := p.b.Reserved(k.id); err != nil || memory[record.Activations] != used || stored[record.Activations] != used {
			t.Errorf("%d are still reserved in memory and %d in the store, %v", memory[record.Activations], stored[record.Activations], err)
		}
	})
}
