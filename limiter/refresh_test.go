package limiter_test

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// pair are two nodes that share a store: what is done on one has to be felt on the
// other.
type pair struct {
	cluster *storetest.Cluster
	a, b    *world
}

// together runs a test on a pair. Time passes as soon as everybody waits for it.
func together(t *testing.T, roles map[string]record.Role, test func(t *testing.T, p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pair{cluster: storetest.NewCluster()}
		p.cluster.Rehearse()
		p.a, p.b = p.open(t, "node-a", roles), p.open(t, "node-b", roles)
		test(t, p)
	})
}

func (p *pair) open(t *testing.T, node string, roles map[string]record.Role) *world {
	t.Helper()
	dir := memoryDir(t)
	lockdown := limiter.NewLockdown(limiter.LockdownOptions{Path: filepath.Join(dir, "lockdown")})
	t.Cleanup(lockdown.Close)
	l, err := limiter.Open(limiter.Options{
		Patience: patience, Store: p.cluster.Node(node), Clock: p.cluster.Clock(node), Roles: roles,
		Shadow: filepath.Join(dir, "shadow"), Disk: fewSlots{}, Lockdown: lockdown,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Error(err)
		}
	})
	return &world{t: t, Limiter: l, lockdown: lockdown}
}

// advance lets time pass once all nodes have followed.
func (p *pair) advance(d time.Duration) {
	synctest.Wait()
	p.cluster.Advance(d)
	synctest.Wait()
}

// on is the same key on another node.
func (k *key) on(w *world) *key { return &key{w: w, id: k.id, lookup: k.lookup} }

// scene is a key that node b has in memory.
type scene struct {
	*pair
	t      *testing.T
	key    *key // on node a
	parent *key // of a child
	child  *key
}

func (s *scene) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// felt fails unless the other nodes have followed an act.
func (s *scene) felt(pending []string, err error) {
	s.t.Helper()
	s.check(err)
	if len(pending) > 0 {
		s.t.Fatalf("not felt on %q", pending)
	}
}

func (s *scene) revoke(k *key) {
	s.t.Helper()
	v, _, err := s.a.Revoke(ctx, limiter.Operator, k.id, "it leaked")
	s.felt(v.Pending, err)
}

func (s *scene) suspend(k *key) {
	s.t.Helper()
	v, err := s.a.Suspend(limiter.Operator, k.id)
	s.felt(v.Pending, err)
}

func (s *scene) rotate(grace time.Duration) {
	s.t.Helper()
	v, _, err := s.a.Rotate(limiter.Operator, s.key.id, record.Issue{Lookup: lookup()}, grace)
	s.felt(v.Pending, err)
}

func (s *scene) change(fn func(*record.Key)) {
	s.t.Helper()
	_, err := s.a.Change(ctx, limiter.Operator, s.key.id, 0, func(k *record.Key) error { fn(k); return nil })
	s.check(err)
}

func (s *scene) grant(k *key, more limiter.More) {
	s.t.Helper()
	_, err := s.a.GrantMore(ctx, limiter.Operator, k.id, more)
	s.check(err)
}

// distant are what is done on one node, and what the other says afterwards.
var distant = map[string]struct {
	is     func(*record.Key) // what is special about the key
	child  bool              // it is one
	before func(*scene)
	act    func(*scene)
	use    record.Code // of the next request on node b
	cut    record.Code // of the running one there; empty: it goes on
	also   func(*scene)
}{
	"a change of its name": {act: func(s *scene) { s.change(func(k *record.Key) { k.Name = "another" }) }},
	"a suspension": {
		act: func(s *scene) { s.suspend(s.key) },
		use: record.CodeKeySuspended, cut: record.CodeKeySuspended,
	},
	"a resumption": {
		before: func(s *scene) { s.suspend(s.key) },
		act: func(s *scene) {
			_, err := s.a.Resume(limiter.Operator, s.key.id)
			s.check(err)
		},
	},
	"a revocation": {
		act: func(s *scene) { s.revoke(s.key) },
		use: record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"a revocation after a change that was made at once": {
		act: func(s *scene) {
			s.change(func(k *record.Key) { k.Name = "another" })
			s.revoke(s.key)
		},
		use: record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"a suspension that a change on the other node has seen first": {
		act: func(s *scene) {
			s.cluster.Lose("node-b", true)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.suspend(s.key)
			}()
			synctest.Wait() // it is durable, and waits for node b
			_, err := s.b.Change(ctx, limiter.Operator, s.key.id, 0, func(k *record.Key) error { k.Name = "another"; return nil })
			s.check(err)
			s.cluster.Lose("node-b", false)
			<-done
			s.felt(s.b.Pending(), nil)
		},
		use: record.CodeKeySuspended, cut: record.CodeKeySuspended,
	},
	"a revocation of many": {
		act: func(s *scene) {
			job, err := s.a.RevokeMany(limiter.Operator, limiter.Filter{}, true, "all of them")
			s.felt(job.Pending, err)
			if code := s.key.on(s.b).use(); code != record.CodeKeyRevoked { // before the job is done, too
				s.t.Errorf("at once: %q", code)
			}
			_, err = s.a.Await(ctx, limiter.Operator, job.Number)
			s.check(err)
		},
		use: record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"a lockdown": {
		act: func(s *scene) {
			now, _, err := s.a.lockdown.Set(limiter.Operator, "a key of ours is public")
			s.felt(now.Pending, err)
		},
		use: record.CodeLockedDown, cut: record.CodeLockedDown,
	},
	"the end of a lockdown that the other node has begun": {
		before: func(s *scene) {
			now, _, err := s.b.lockdown.Set(limiter.Operator, "a key of ours is public")
			s.felt(now.Pending, err)
		},
		act: func(s *scene) { s.check(s.a.lockdown.Lift(limiter.Operator)) },
	},
	"a leak": {
		act: func(s *scene) {
			_, err := s.a.Leak(ctx, limiter.Operator, s.key.lookup, false, false)
			s.felt(s.a.Pending(), err)
		},
		use: record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"a rotation": {
		act: func(s *scene) { s.rotate(0) },
		use: record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"a rotation with a grace": {act: func(s *scene) { s.rotate(time.Hour) }},
	"the end of a grace": {
		before: func(s *scene) { s.rotate(time.Hour) },
		act: func(s *scene) {
			_, err := s.a.Leak(ctx, limiter.Operator, s.key.lookup, false, false)
			s.check(err)
		},
		use: record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"more rotations at once than are remembered": {
		act: func(s *scene) {
			s.cluster.Lose("node-b", true)
			for range 20 {
				_, _, err := s.a.Rotate(limiter.Operator, s.key.id, record.Issue{Lookup: lookup()}, time.Millisecond)
				s.check(err)
				s.cluster.Advance(time.Millisecond)
			}
			s.cluster.Lose("node-b", false)
		},
		use: record.CodeKeyInvalid, cut: record.CodeKeyRevoked,
	},
	"a grant": {
		is: activations(10),
		before: func(s *scene) {
			for s.key.use() == "" {
			}
		},
		act: func(s *scene) { s.grant(s.key, limiter.More{Activations: 5}) },
	},
	"that it is forgotten": {
		act: func(s *scene) {
			s.revoke(s.key)
			s.check(s.a.Forget(ctx, limiter.Operator, s.key.id))
		},
		use: record.CodeKeyInvalid, cut: record.CodeKeyRevoked,
	},
	"that it has a child": {
		is:  delegating(activations(40)),
		act: func(s *scene) { s.key.mustChild(activations(5)) },
		also: func(s *scene) {
			if v := s.key.on(s.b).view(); v.Children != 1 || v.Delegated[record.Activations] != 5 {
				s.t.Errorf("node b says that %d children have %d activations", v.Children, v.Delegated[record.Activations])
			}
		},
	},
	"that its child was granted more": {
		is:     delegating(activations(40)),
		before: func(s *scene) { s.child = s.key.mustChild(activations(5)) },
		act:    func(s *scene) { s.grant(s.child, limiter.More{Activations: 3}) },
		also: func(s *scene) {
			if v := s.key.on(s.b).view(); v.Children != 1 || v.Delegated[record.Activations] != 8 {
				s.t.Errorf("node b says that %d children have %d activations", v.Children, v.Delegated[record.Activations])
			}
		},
	},
	"that its child has ended": {
		is:     delegating(activations(40)),
		before: func(s *scene) { s.child = s.key.mustChild(activations(5)) },
		act:    func(s *scene) { s.revoke(s.child) },
		also: func(s *scene) {
			if v := s.key.on(s.b).view(); v.Children != 0 || v.Delegated[record.Activations] != 0 {
				s.t.Errorf("node b says that %d children have %d activations", v.Children, v.Delegated[record.Activations])
			}
		},
	},
	"that its parent was revoked": {
		child: true,
		act:   func(s *scene) { s.revoke(s.parent) },
		use:   record.CodeKeyRevoked, cut: record.CodeKeyRevoked,
	},
	"that its parent was suspended": {
		child: true,
		act:   func(s *scene) { s.suspend(s.parent) },
		use:   record.CodeKeySuspended, cut: record.CodeKeySuspended,
	},
	"that its parent's scope was narrowed": {
		child: true,
		act: func(s *scene) {
			_, err := s.a.Change(ctx, limiter.Operator, s.parent.id, 0, func(k *record.Key) error {
				k.Scope.Methods = []string{"GET"}
				return nil
			})
			s.check(err)
		},
		use: record.CodeMethodNotAllowed,
	},
	"that its lifetime was cut short": {
		is: func(k *record.Key) { k.ExpiresAt = time.Date(2026, 12, 24, 9, 0, 0, 0, time.UTC) },
		act: func(s *scene) {
			s.change(func(k *record.Key) { k.ExpiresAt = s.a.Time().Add(time.Second) })
			s.felt(s.a.Pending(), nil)
			s.advance(2 * time.Second)
			s.b.SweepActive()
		},
		use: record.CodeKeyExpired, cut: record.CodeKeyExpired,
	},
}

func TestWhatIsDoneOnOneNodeIsFeltOnTheOther(t *testing.T) {
	t.Parallel()
	for name, test := range distant {
		for _, streams := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " while a stream runs"}[streams], func(t *testing.T) {
				t.Parallel()
				together(t, nil, func(t *testing.T, p *pair) {
					s := &scene{pair: p, t: t}
					is := test.is
					if is == nil {
						is = func(*record.Key) {}
					}
					if test.child {
						s.parent = p.a.mint(delegating())
						s.key = s.parent.mustChild(is)
					} else {
						s.key = p.a.mint(is)
					}
					if test.before != nil {
						test.before(s)
						s.felt(p.a.Pending(), nil)
					}
					there := s.key.on(p.b)
					var g *limiter.Grant
					if streams {
						var refusal *record.Refusal
						if g, refusal = there.ask(); refusal != nil && test.before == nil {
							t.Fatal(refusal.Message)
						}
					} else if code := there.use(); code != "" && test.before == nil {
						t.Fatal(code)
					}
					test.act(s)
					s.felt(p.a.Pending(), nil)
					if g != nil {
						cut := record.Code("")
						if r := g.Cut(); r != nil {
							cut = r.Code
						}
						if cut != test.cut {
							t.Errorf("the stream was cut with %q, want %q", cut, test.cut)
						}
						g.Settle(record.Amounts{record.Activations: 1})
					}
					if code := there.use(); code != test.use {
						t.Errorf("the next request: %q, want %q", code, test.use)
					}
					if test.use != record.CodeKeyInvalid {
						if a, b := s.key.view().Key, there.view().Key; !reflect.DeepEqual(a, b) {
							t.Errorf("the key is\n%+v on node b, and\n%+v on node a", b, a)
						}
					}
					if test.also != nil {
						test.also(s)
					}
				})
			})
		}
	}
}

func TestAChangeOfAnyFieldIsFeltOnTheOtherNode(t *testing.T) {
	t.Parallel()
	together(t, nil, func(t *testing.T, p *pair) {
		n := 0
		for i := range record.KeyFields {
			f := &record.KeyFields[i]
			if f.Choice < record.WhileAlive {
				continue
			}
			n++
			k := p.a.mint(func(key *record.Key) { key.Limit = record.Amounts{500, 500, 500, record.NoLimit} })
			there := k.on(p.b)
			before := there.view().Key
			if _, err := p.a.Change(ctx, limiter.Operator, k.id, 0, another(f, p.a.Time())); err != nil {
				t.Errorf("%s: %v", f.Name, err)
				continue
			}
			if pending := p.a.Pending(); len(pending) > 0 {
				t.Fatal(pending)
			}
			after := there.view()
			if reflect.DeepEqual(of(f, &before).Interface(), of(f, &after.Key).Interface()) {
				t.Errorf("a change of %s is not felt", f.Name)
			}
			if here := k.view(); !reflect.DeepEqual(here.Key, after.Key) || here.Remaining != after.Remaining {
				t.Errorf("after a change of %s the key is\n%+v, with %v left, on node b, and\n%+v, with %v, on node a",
					f.Name, after.Key, after.Remaining, here.Key, here.Remaining)
			}
		}
		if n < 10 {
			t.Errorf("only %d fields can be changed", n)
		}
	})
}

func TestARoleIsWhatTheConfigurationOfEachNodeSays(t *testing.T) {
	t.Parallel()
	roles := map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{10, -1, -1, -1}}}}
	together(t, roles, func(t *testing.T, p *pair) {
		k := p.a.mint(func(k *record.Key) { k.Role = "ci" })
		for _, w := range []*world{p.a, p.b} {
			if code := k.on(w).use(); code != "" {
				t.Fatal(code)
			}
		}
		if err := p.a.SetRoles(nil); err != nil {
			t.Fatal(err)
		}
		if code := k.use(); code == "" {
			t.Error("the node whose configuration no longer has the role admits its key")
		}
		if code := k.on(p.b).use(); code != "" {
			t.Errorf("the other node, whose configuration has the role: %q", code)
		}
		if err := p.a.SetRoles(roles); err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for again := true; again; {
			again = false
			for _, w := range []*world{p.a, p.b} {
				if k.on(w).use() == "" {
					n, again = n+1, true
				}
			}
		}
		if n != 7 {
			t.Errorf("with it back, %d more were admitted, want 7 of 10", n)
		}
	})
}
