package access_test

import (
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// team is a process that keeps tokens.
type team struct {
	*access.Tokens
	*committest.Committer
	now time.Time
}

func newTeam(t *testing.T, s store.Store) *team {
	t.Helper()
	c := committest.Start(t, s)
	tokens, err := access.ReadTokens(s, c.Writer(), func(id string, err error) { t.Errorf("token %s: %v", id, err) })
	if err != nil {
		t.Fatal(err)
	}
	return &team{tokens, c, noon}
}

// hire makes a token whose id, lookup and name all follow from its name.
func (m *team) hire(name string, with ...func(rec *record.AdminToken)) (old []record.AdminToken, err error) {
	rec := &record.AdminToken{ID: record.TokenIDPrefix + name, Lookup: lookup(name), Name: name, Role: "lead", CreatedAt: m.now}
	for _, fn := range with {
		fn(rec)
	}
	err = m.Do(func(tx committest.Transaction) (err error) {
		old, err = m.Add(tx, rec, m.now)
		return err
	}, func() { m.Added(rec, old) })
	return old, err
}

func (m *team) mustHire(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := m.hire(name); err != nil {
			t.Fatal(err)
		}
	}
}

func lookup(name string) (l token.Lookup) {
	copy(l[:], name)
	return l
}
