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
)

// endings are the actions and events of which one key has one each.
var (
	endActions = []string{audit.ActKeyRevoke, audit.ActKeyLeak, audit.ActKeyExpired, audit.ActKeyExhausted}
	endEvents  = []event.Name{event.KeyRevoked, event.KeyExpired, event.KeyExhausted}
)

// mortal is a key that ends in a test, with a request that runs or nil.
type mortal struct {
	*key
	w       *world
	parent  *key
	running *limiter.Grant
}

func (m *mortal) change(t *testing.T, fn func(*record.Key)) {
	if _, err := m.w.Change(ctx, limiter.Operator, m.id, 0, func(k *record.Key) error { fn(k); return nil }); err != nil {
		t.Error(err)
	}
}

// revokeAnns revokes all keys of their owner.
func (m *mortal) revokeAnns(t *testing.T) {
	j, err := m.w.RevokeMany(limiter.Operator.At("192.0.2.9"), limiter.Filter{Owner: "ann"}, false, "ann left")
	if err != nil {
		t.Error(err)
		return
	}
	m.w.await(t, j)
}

// together holds a commit of first up, until the others, in this order, wait to be
// written in the next one.
func (m *mortal) together(first func(), then ...func()) {
	gate := make(chan struct{})
	m.w.disk.BeforeCommit(func(int) { <-gate })
	for _, call := range append([]func(){first}, then...) {
		go call()
		synctest.Wait()
	}
	m.w.disk.BeforeCommit(nil)
	close(gate)
	synctest.Wait()
}

// TestEveryEndIsWrittenAuditedReportedAndCutOnce goes through all ways in which a key
// can end.
func TestEveryEndIsWrittenAuditedReportedAndCutOnce(t *testing.T) {
	t.Parallel()
	never := func(*record.Key) {}
	rename := func(k *record.Key) { k.Name = "renamed" }
	pass := func(d time.Duration) func(*testing.T, *mortal) {
		return func(_ *testing.T, m *mortal) { m.w.clock.advance(d) }
	}
	ways := []struct {
		name   string
		spec   func(*record.Key)
		parent func(*record.Key) // nil: none
		runs   bool
		stored bool // it is not in memory
		end    func(t *testing.T, m *mortal)

		action, by string
		event      event.Name
		code       record.Code
		status     record.Status
		also       event.Name
		reason     string
	}{
		{
			name: "revoke", runs: true,
			end: func(t *testing.T, m *mortal) {
				for range 2 {
					if _, _, err := m.w.Revoke(ctx, limiter.Operator, m.id, "it has to go"); err != nil {
						t.Error(err)
					}
				}
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "it has to go",
		},
		{
			name: "revoke a suspended key", runs: true,
			end: func(t *testing.T, m *mortal) {
				if _, err := m.w.Suspend(limiter.Operator, m.id); err != nil {
					t.Error(err)
				}
				if _, _, err := m.w.Revoke(ctx, limiter.Operator, m.id, ""); err != nil {
					t.Error(err)
				}
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", also: event.KeySuspended, reason: "revoked by operator",
		},
		{
			name: "revoke on a full disk", runs: true,
			end: func(t *testing.T, m *mortal) {
				m.w.disk.Fill()
				if _, _, err := m.w.Revoke(ctx, limiter.Operator, m.id, ""); !errors.Is(err, store.ErrNoSpace) {
					t.Error(err)
				}
				m.w.disk.Heal()
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "revoked by operator",
		},
		{
			name: "by its holder", runs: true,
			end: func(t *testing.T, m *mortal) {
				v := m.view()
				if _, _, err := m.w.Revoke(ctx, limiter.Holder(&v.Key, ""), m.id, "revoked by its holder"); err != nil {
					t.Error(err)
				}
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "its id", reason: "revoked by its holder",
		},
		{
			name: "in bulk", runs: true, end: func(t *testing.T, m *mortal) { m.revokeAnns(t) },
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "ann left",
		},
		{
			name: "in bulk, not in memory", stored: true, end: func(t *testing.T, m *mortal) { m.revokeAnns(t) },
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "ann left",
		},
		{
			name: "in bulk, inside another change", runs: true,
			end: func(t *testing.T, m *mortal) {
				m.together(func() { m.w.mint(never) }, func() { m.change(t, rename) }, func() { m.revokeAnns(t) })
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "ann left",
		},
		{
			name: "in bulk, inside a suspension", runs: true,
			end: func(t *testing.T, m *mortal) {
				m.together(func() { m.w.mint(never) }, func() {
					if _, err := m.w.Suspend(limiter.Operator, m.id); err != nil {
						t.Error(err)
					}
				}, func() { m.revokeAnns(t) })
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", also: event.KeySuspended, reason: "ann left",
		},
		{
			name: "in bulk, changed before that was written", runs: true,
			end: func(t *testing.T, m *mortal) {
				m.together(func() { m.change(t, rename) }, func() { m.revokeAnns(t) })
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "ann left",
		},
		{
			name: "in bulk, and by name", runs: true,
			end: func(t *testing.T, m *mortal) {
				m.together(func() { m.w.mint(never) }, func() {
					if _, _, err := m.w.Revoke(ctx, limiter.Operator, m.id, "it has to go"); err != nil {
						t.Error(err)
					}
				}, func() { m.revokeAnns(t) })
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "it has to go",
		},
		{
			name: "with its parent", parent: delegating(), runs: true,
			end: func(t *testing.T, m *mortal) {
				if _, _, err := m.w.Revoke(ctx, limiter.Operator, m.parent.id, ""); err != nil {
					t.Error(err)
				}
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "its parent key PARENT was revoked",
		},
		{
			name: "with its parent, not in memory", parent: delegating(), stored: true,
			end: func(t *testing.T, m *mortal) {
				if _, _, err := m.w.Revoke(ctx, limiter.Operator, m.parent.id, ""); err != nil {
					t.Error(err)
				}
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "its parent key PARENT was revoked",
		},
		{
			name: "with its parent that expires", runs: true,
			parent: delegating(func(k *record.Key) { k.ExpiresAt = newClock().now.Add(time.Hour) }), end: pass(2 * time.Hour),
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyExpired, status: record.Expired,
			reason: "its parent key PARENT has expired",
		},
		{
			name: "with its parent that expires, in bulk", runs: true,
			parent: delegating(func(k *record.Key) { k.ExpiresAt = newClock().now.Add(time.Hour) }),
			end: func(t *testing.T, m *mortal) {
				m.w.clock.advance(2 * time.Hour)
				m.together(func() { m.w.mint(never) }, m.w.SweepDue, func() { m.revokeAnns(t) })
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "operator", reason: "ann left",
		},
		{
			name: "expiry while it runs", runs: true,
			spec: func(k *record.Key) { k.ExpiresAt = newClock().now.Add(time.Hour) }, end: pass(2 * time.Hour),
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyExpired, status: record.Expired,
			reason: string(record.CodeKeyExpired),
		},
		{
			name: "expiry, not in memory", stored: true,
			spec: func(k *record.Key) { k.ExpiresAt = newClock().now.Add(time.Hour) }, end: pass(2 * time.Hour),
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyExpired, status: record.Expired,
			reason: string(record.CodeKeyExpired),
		},
		{
			name: "expiry that the sweeper of due keys sees first", runs: true,
			spec: func(k *record.Key) { k.ExpiresAt = newClock().now.Add(time.Hour) },
			end: func(_ *testing.T, m *mortal) {
				m.w.clock.advance(2 * time.Hour)
				m.w.SweepDue()
			},
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyExpired, status: record.Expired,
			reason: string(record.CodeKeyExpired),
		},
		{
			name: "not used for long", spec: func(k *record.Key) { k.IdleTimeout = time.Hour },
			end: func(_ *testing.T, m *mortal) {
				m.use()
				m.w.clock.advance(2 * time.Hour)
			},
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyIdle, status: record.Expired,
			reason: string(record.CodeKeyIdle),
		},
		{
			name: "not used for long, not in memory", stored: true,
			spec: func(k *record.Key) { k.IdleTimeout = time.Hour }, end: pass(2 * time.Hour),
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyIdle, status: record.Expired,
			reason: string(record.CodeKeyIdle),
		},
		{
			name: "never used", spec: func(k *record.Key) { k.FirstUseWithin = time.Hour }, end: pass(2 * time.Hour),
			action: audit.ActKeyExpired, event: event.KeyExpired, code: record.CodeKeyExpired, status: record.Expired,
			reason: string(record.CodeKeyExpired),
		},
		{
			name: "exhaustion", spec: activations(2),
			end: func(_ *testing.T, m *mortal) {
				m.drain(record.CodeActivationsExhausted)
			},
			action: audit.ActKeyExhausted, event: event.KeyExhausted, code: record.CodeActivationsExhausted,
			status: record.Exhausted, reason: string(record.CodeActivationsExhausted), also: event.KeyThreshold,
		},
		{
			name: "leak", runs: true,
			end: func(_ *testing.T, m *mortal) {
				m.w.leak(limiter.Operator, m.lookup, false)
				m.w.leak(limiter.Operator, m.lookup, false)
			},
			action: audit.ActKeyLeak, event: event.KeyRevoked, by: "operator", also: event.KeyLeaked,
			reason: "its string was found in the open by operator",
		},
		{
			name: "leak on a full disk", runs: true,
			end: func(t *testing.T, m *mortal) {
				m.w.disk.Fill()
				if _, err := m.w.Leak(ctx, limiter.Operator, m.lookup, false, false); !errors.Is(err, store.ErrNoSpace) {
					t.Error(err)
				}
				m.w.disk.Heal()
			},
			action: audit.ActKeyLeak, event: event.KeyRevoked, by: "operator", also: event.KeyLeaked,
			reason: "its string was found in the open by operator",
		},
		{
			name: "stale",
			end: func(_ *testing.T, m *mortal) {
				m.w.SetStale(10*24*time.Hour, true)
				m.w.clock.advance(9*24*time.Hour + time.Hour)
				m.w.SweepStale()
				m.w.clock.advance(2 * 24 * time.Hour)
				m.w.SweepStale()
			},
			action: audit.ActKeyRevoke, event: event.KeyRevoked, by: "till", also: event.KeyStale,
			reason: "unused since 2026-11-24T09:00:00Z, longer than stale_after allows",
		},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				heard := &listener{}
				w := newMachine(t)
				w.observe = heard
				w.hooks = []event.Hook{{URL: hookURL}}
				w.restart()
				m := &mortal{w: w}
				w.mint(activations(5))
				spec := func(k *record.Key) {
					k.Owner = "ann"
					if way.spec != nil {
						way.spec(k)
					}
				}
				if way.parent != nil {
					m.parent = w.mint(way.parent)
					m.key = m.parent.mustChild(spec)
				} else {
					m.key = w.mint(spec)
				}
				if way.runs {
					var refusal *record.Refusal
					if m.running, refusal = m.ask(); refusal != nil {
						t.Fatal(refusal)
					}
				}
				if way.stored {
					w.restart()
				}
				way.end(t, m)
				synctest.Wait()
				w.SweepActive()
				w.SweepDue()
				if way.runs {
					if m.running.Cut() == nil {
						t.Error("what runs was not cut")
					}
					m.running.Settle(record.Amounts{record.Activations: 1})
				}
				w.settle()
				m.judge(t, heard, way.action, event.Event{Name: way.event, By: way.by, Code: way.code}, way.also, way.status, way.reason)
			})
		})
	}
}

// judge holds what is known of a key's end in all places against each other.
func (m *mortal) judge(t *testing.T, heard *listener, action string, want event.Event, also event.Name, status record.Status, reason string) {
	t.Helper()
	if want.Code == "" {
		want.Code, status = record.CodeKeyRevoked, record.Revoked
	}
	if want.By == "its id" {
		want.By = m.id
	}
	v := m.view()
	if m.parent != nil {
		reason = strings.ReplaceAll(reason, "PARENT", m.parent.id)
		if status == record.Expired && v.EndedReason == string(want.Code) {
			reason = v.EndedReason // its own time was over, too, and it came first
		}
	}
	if v.Status != status || v.EndedStatus != status || v.EndedReason != reason || v.EndedAt.IsZero() || !v.SuspendedAt.IsZero() {
		t.Errorf("it is %s, its record says %s on %s: %q", v.Status, v.EndedStatus, v.EndedAt, v.EndedReason)
	}
	acts := slices.DeleteFunc(strings.Fields(m.w.acts(m.id)), func(act string) bool { return !slices.Contains(endActions, act) })
	if !slices.Equal(acts, []string{action}) {
		t.Errorf("the audit log says it ended by %q, want %s", acts, action)
	}
	var said []string
	for _, name := range append([]event.Name{also}, endEvents...) {
		for _, e := range heard.take(name) {
			if e.Key.ID != m.id {
				continue
			}
			if said = append(said, string(e.Name)); name != also && (e.Name != want.Name || e.By != want.By || e.Code != want.Code) {
				t.Errorf("%s by %q with the code %s, want %s by %q with %s", e.Name, e.By, e.Code, want.Name, want.By, want.Code)
			}
		}
	}
	posted, _ := m.w.waiting()
	for _, name := range append([]event.Name{also}, endEvents...) {
		least := 0
		if name == want.Name || name == also && name != "" {
			least = 1
		}
		n, kept := 0, 0
		for i := range said {
			if said[i] == string(name) {
				n++
			}
		}
		for i := range posted {
			if posted[i] == fmt.Sprintf("%s %s", name, m.id) {
				kept++
			}
		}
		if n != least && name != event.KeyThreshold || n != kept {
			t.Errorf("%q was reported %d times, and %d times to the webhook, want %d", name, n, kept, least)
		}
	}
	page, err := m.w.List(ctx, limiter.Operator, limiter.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	counted := map[record.Status]int64{}
	for i := range page.Keys {
		counted[page.Keys[i].Status]++
	}
	for status, n := range m.w.Stats().Keys {
		if n != counted[status] {
			t.Errorf("the tally has %d %s keys, the list %d", n, status, counted[status])
		}
	}
	m.w.agree(t)
	if _, err := m.w.AuditVerify(ctx, limiter.Operator); err != nil {
		t.Error(err)
	}
}
