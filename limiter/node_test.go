package limiter_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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
			v, err := p.a.Suspend(ctx, limiter.Operator, k.id)
			return v.Pending, err
		},
		"rotate": func(p *pair, k *key) ([]string, error) {
			v, _, err := p.a.Rotate(ctx, limiter.Operator, k.id, record.Issue{Lookup: lookup()}, 0)
			return v.Pending, err
		},
		"lock down": func(p *pair, k *key) ([]string, error) {
			now, _, err := p.a.lockdown.Set(limiter.Operator, "", p.a.Time())
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
		made, err := p.a.CreateToken(ctx, limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "maker"})
		if err != nil || len(made.Pending) > 0 {
			t.Fatalf("making it: pending on %q, %v", made.Pending, err)
		}
		if by, err := p.b.Authenticate(ctx, secret.Reveal(), "192.0.2.1"); err != nil || by.Token != made.ID {
			t.Fatalf("on the other node it stands for %+v, %v", by, err)
		}
		synctest.Wait()
		p.cluster.Cut("node-b")
		p.advance(8 * time.Second)
		if _, err := p.b.Authenticate(ctx, secret.Reveal(), "192.0.2.1"); !errors.Is(err, store.ErrStale) {
			t.Errorf("on a node that has lost touch: %v", err)
		}
		if _, err := p.b.Standing(limiter.Caller{Name: "anna", Token: made.ID, Role: "maker"}); !errors.Is(err, store.ErrStale) {
			t.Errorf("going on there: %v", err)
		}
		p.cluster.Heal("node-b")
		synctest.Wait()
		done, err := p.a.RevokeToken(ctx, limiter.Operator, made.ID)
		if err != nil || len(done.Pending) > 0 {
			t.Fatalf("pending on %q, %v", done.Pending, err)
		}
		if _, err := p.b.Authenticate(ctx, secret.Reveal(), "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
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
		if v, err := p.a.Suspend(ctx, limiter.Operator, k.id); err != nil || len(v.Pending) > 0 {
			t.Fatal(v.Pending, err)
		}
		synctest.Wait()
		if memory, stored, err := p.b.Reserved(k.id); err != nil || memory[record.Activations] != used || stored[record.Activations] != used {
			t.Errorf("%d are still reserved in memory and %d in the store, %v", memory[record.Activations], stored[record.Activations], err)
		}
	})
}

// lookedAt is a node whose look-ups are counted.
type lookedAt struct {
	store.Shared
	views, running, most atomic.Int64
	hold                 chan struct{} // nil: looks end at once
}

// View implements store.Store.
func (s *lookedAt) View(fn func(store.Reader) error) error {
	s.views.Add(1)
	n := s.running.Add(1)
	defer s.running.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	if s.hold != nil {
		<-s.hold
	}
	return s.Shared.View(fn)
}

func TestAFloodOfUnknownKeysIsNoFloodOfQueries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cluster := storetest.NewCluster()
		s := &lookedAt{Shared: cluster.Node("node-a")}
		l, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Clock: cluster.Clock("node-a")})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		synctest.Wait()
		unknown := lookup()
		before := s.views.Load()
		for range 1000 {
			if _, refusal := l.Find(ctx, unknown); refusal == nil || refusal.Code != record.CodeKeyInvalid {
				t.Fatalf("an unknown key: %+v", refusal)
			}
		}
		if n := s.views.Load() - before; n != 1 {
			t.Errorf("1,000 requests with one unknown key are %d queries", n)
		}
		cluster.Advance(11 * time.Second)
		synctest.Wait()
		l.Find(ctx, unknown)
		if n := s.views.Load() - before; n != 2 {
			t.Errorf("after eleven seconds %d queries were made, want 2", n)
		}

		s.hold = make(chan struct{})
		s.most.Store(0)
		before = s.views.Load()
		ended := make(chan *record.Refusal, 500)
		for range cap(ended) {
			go func() {
				_, refusal := l.Find(ctx, lookup())
				ended <- refusal
			}()
		}
		synctest.Wait()
		if n := s.most.Load(); n != limiter.MaxLookUps {
			t.Errorf("%d are looked for at a time, want %d", n, limiter.MaxLookUps)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, refusal := l.Find(gone, lookup()); refusal == nil || refusal.Code != record.CodeStoreUnavailable {
			t.Errorf("a client that has gone: %+v", refusal)
		}
		close(s.hold)
		for range cap(ended) {
			if refusal := <-ended; refusal == nil || refusal.Code != record.CodeKeyInvalid {
				t.Errorf("one of the others: %+v", refusal)
			}
		}
		if n := s.views.Load() - before; n > 6 {
			t.Errorf("requests with 500 unknown keys are %d queries", n)
		}
	})
}

func TestAKeyThatWasUnknownIsFoundAsSoonAsItIsMinted(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		next := lookup()
		if _, refusal := p.b.Find(ctx, next); refusal == nil {
			t.Fatal("it is found before it exists")
		}
		spec := &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits()}
		v, err := p.a.Mint(ctx, limiter.Operator, spec, limiter.Birth{Lookup: next, Unlimited: true})
		if err != nil {
			t.Fatal(err)
		}
		if pending := p.a.Pending(); len(pending) > 0 {
			t.Fatal(pending)
		}
		if k, refusal := p.b.Find(ctx, next); refusal != nil || k.Key().ID != v.ID {
			t.Errorf("afterwards: %+v", refusal)
		}
	})
}

func TestAStringThatAKeyWasGivenIsFoundBeforeTheNodeHasHeardOfIt(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.MintMany(1, func(int, *record.Key) {})[0]
		if code := k.on(p.b).use(); code != "" {
			t.Fatal(code)
		}
		synctest.Wait()
		p.cluster.Lose("node-b", true)
		next := lookup()
		if _, _, err := p.a.Rotate(ctx, limiter.Operator, k.id, record.Issue{Lookup: next}, time.Hour); err != nil {
			t.Fatal(err)
		}
		for what, lookup := range map[string]token.Lookup{"the new string": next, "the former one, which still works": k.lookup} {
			live, refusal := p.b.Find(ctx, lookup)
			if refusal == nil {
				_, refusal = live.Number(live.Key(), lookup)
			}
			if refusal != nil {
				t.Errorf("%s: %+v", what, refusal)
			}
		}
	})
}

func TestOnlyTheNodeThatLeadsSweepsForAll(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		p.a.SweepDue() // it is the first to lead
		expires := p.a.Time().Add(5 * time.Second)
		k := p.a.mint(func(k *record.Key) { k.ExpiresAt = expires })
		p.cluster.Advance(6 * time.Second)
		if nodes, err := p.b.Nodes(); err != nil || len(nodes) != 2 || !nodes[0].Leads || nodes[1].Leads {
			t.Fatalf("the nodes are %+v, %v", nodes, err)
		}
		p.b.SweepDue()
		if n := p.b.Due(); n != 1 {
			t.Errorf("%d keys are due after a sweep by the node that does not lead, want 1", n)
		}
		p.a.SweepDue()
		if n := p.a.Due(); n != 0 || k.view().EndedStatus != record.Expired {
			t.Errorf("%d keys are due after a sweep by the node that leads", n)
		}
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		p.b.mint(func(k *record.Key) { k.ExpiresAt = p.b.Time().Add(5 * time.Second) })
		p.cluster.Advance(6 * time.Second)
		p.b.SweepDue()
		if n := p.b.Due(); n != 0 {
			t.Errorf("%d keys are due after a sweep by the node that leads now", n)
		}
	})
}

func TestAKeyThatOneNodeUsesIsNotIdleToTheOther(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		p.a.SweepDue() // so it leads
		k := p.a.mint(func(k *record.Key) { k.IdleTimeout = time.Minute })
		for _, w := range []*world{p.a, p.b} {
			if code := k.on(w).use(); code != "" {
				t.Fatal(code)
			}
		}
		for range 5 { // each time a moment before it would be idle
			p.advance(57 * time.Second)
			if code := k.on(p.b).use(); code != "" {
				t.Fatalf("the node that uses it: %s", code)
			}
			p.advance(2 * time.Second)
			p.a.SweepActive()
			p.a.SweepDue() // has heard of no use for 61 seconds
			p.b.SweepActive()
			if err := p.b.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			if v := k.view(); v.EndedStatus != "" {
				t.Fatalf("it has ended: %s", v.EndedReason)
			}
		}
		if code := k.on(p.a).use(); code != "" {
			t.Errorf("the other node: %s", code)
		}
		p.advance(2 * time.Minute)
		p.a.SweepDue()
		if v := k.view(); v.EndedReason != string(record.CodeKeyIdle) {
			t.Errorf("two minutes later it has ended: %q", v.EndedReason)
		}
	})
}

func TestNothingIsLeftOfAKeyThatIsForgotten(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.mint(activations(100))
		for _, w := range []*world{p.a, p.b} {
			if code := k.on(w).use(); code != "" {
				t.Fatal(code)
			}
		}
		if _, _, err := p.a.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has given back what it had
		if err := p.a.Forget(ctx, limiter.Operator, k.id); err != nil {
			t.Fatal(err)
		}
		left, err := p.a.Left(k.id)
		left = slices.DeleteFunc(left, func(row string) bool { return strings.Contains(row, "/events/") }) // of which feeds tell
		account, _ := record.KeyAccount(k.id)
		err = errors.Join(err, p.cluster.View(func(r store.Reader) error {
			return r.Scan(record.PartPrefix(account), nil, false, func(key, _ []byte) (bool, error) {
				left = append(left, string(key))
				return true, nil
			})
		}))
		if err != nil || len(left) > 0 {
			t.Errorf("left are %q, %v", left, err)
		}
	})
}

func TestADatabaseThatIsAwayRefusesAndPoisonsNothing(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		k := p.a.mint(activations(10))
		p.cluster.Inject(func(string) storetest.Outcome { return storetest.Refused })
		_, refusal := k.ask()
		if refusal == nil || refusal.Code != record.CodeStoreUnavailable || !strings.Contains(refusal.Message, "the database is not available") {
			t.Errorf("a request: %+v", refusal)
		}
		if _, _, err := p.a.Revoke(ctx, limiter.Operator, k.id, ""); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a revocation: %v", err)
		}
		if err := p.a.Trouble(ctx); err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("its trouble: %v", err)
		}
		p.cluster.Inject(nil)
		p.a.SweepDue() // writes down what was stopped in memory
		if err := errors.Join(p.a.Failed(), p.a.Trouble(ctx)); err != nil {
			t.Errorf("back again: %v", err)
		}
		if pending := p.a.Pending(); len(pending) > 0 {
			t.Fatal(pending)
		}
		if code := k.on(p.b).use(); code != record.CodeKeyRevoked {
			t.Errorf("on the other node: %q", code)
		}
	})
}

// codeOf is why a request was refused; empty if it was not.
func codeOf(refusal *record.Refusal) record.Code {
	if refusal == nil {
		return ""
	}
	return refusal.Code
}

// interrupted is a node at one of whose looks something else happens.
type interrupted struct {
	store.Shared
	views, at atomic.Int64
	then      func()
}

// View implements store.Store.
func (s *interrupted) View(fn func(store.Reader) error) error {
	err := s.Shared.View(fn)
	if s.views.Add(1) == s.at.Load() {
		s.then()
	}
	return err
}

func TestANodeThatStartsMissesNothingMeanwhile(t *testing.T) {
	t.Parallel()
	roles := map[string]record.Role{"maker": {Permissions: []record.Permission{record.KeysCreate}}}
	for at := int64(1); ; at++ {
		happened := false
		together(t, roles, func(t *testing.T, p *pair) {
			var ended string
			old, lookup, err := token.MintAdmin()
			if err != nil {
				t.Fatal(err)
			}
			made, err := p.a.CreateToken(ctx, limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "maker"})
			if err != nil {
				t.Fatal(err)
			}
			s := &interrupted{Shared: p.cluster.Node("node-c"), then: func() {
				happened = true
				done, err := p.a.RevokeToken(ctx, limiter.Operator, made.ID)
				if err != nil || len(done.Pending) > 0 {
					t.Errorf("pending on %q, %v", done.Pending, err)
				}
				ended = done.ID
			}}
			s.at.Store(at)
			c, err := limiter.Open(limiter.Options{Patience: patience, Store: s, Clock: p.cluster.Clock("node-c"), Roles: roles})
			if err != nil {
				t.Fatal(err)
			}
			s.at.Store(0)
			if _, err := c.Authenticate(ctx, old.Reveal(), "192.0.2.1"); (err == nil) != (ended == "") {
				t.Errorf("a token that was revoked at look %d: %v", at, err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		if !happened {
			if at < 4 {
				t.Errorf("a start takes only %d looks", at-1)
			}
			return
		}
	}
}

func TestANodeStopsThoughItsDatabaseDoesNotAnswer(t *testing.T) {
	for name, outcome := range map[string]storetest.Outcome{"cut before a commit": storetest.CutRefused, "cut after a commit": storetest.CutCommitted} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(activations(100))
				if code := k.use(); code != "" {
					t.Fatal(code)
				}
				c.Inject(func(node string) storetest.Outcome {
					if node == c.w[0].node {
						return outcome
					}
					return storetest.Committed
				})
				began := time.Now()
				if err := c.w[0].Close(); err == nil {
					t.Error("it stopped as if all was saved")
				}
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("it stopped after %s", took)
				}
			})
		})
	}
}
