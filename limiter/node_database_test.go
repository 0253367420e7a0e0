package limiter_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

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
			made, err := p.a.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "maker"})
			if err != nil {
				t.Fatal(err)
			}
			s := &interrupted{Shared: p.cluster.Node("node-c"), then: func() {
				happened = true
				done, err := p.a.RevokeToken(limiter.Operator, made.ID)
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
			if _, err := c.Authenticate(old.Reveal(), "192.0.2.1"); (err == nil) != (ended == "") {
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
