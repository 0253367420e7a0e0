package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres"
)

func TestWhatWasPrunedFromTheFeedIsMissed(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	f := &follower{}
	one := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	proxy.Cut()
	for i := range 3 {
		put(t, two, fmt.Sprintf("f/%d", i), "")
	}
	server.Exec(t, "DELETE FROM "+schema+".feed WHERE seq < 3")
	proxy.Heal()
	eventually(t, "it has read everything again", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.missed > 0
	})
	eventually(t, "and is fresh", func() bool { return one.Fresh() == nil })
	f.mu.Lock()
	missed := f.missed
	f.mu.Unlock()
	put(t, two, "f/last", "")
	if behind, err := two.Settled(time.Minute); err != nil || len(behind) != 0 {
		t.Fatalf("Settled: %q, %v", behind, err)
	}
	eventually(t, "it was told of the last, or has read everything once more because it had lost touch", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.changed, "f/last") || f.missed > missed
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.changed, "f/0") {
		t.Errorf("it was told of %q", f.changed)
	}
}

func TestTheLeaderPrunesWhatEveryNodeHasFollowed(t *testing.T) {
	t.Parallel()
	server, schema, one := ownNode(t)
	open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	for i := range 3 {
		put(t, one, fmt.Sprintf("f/%d", i), "")
	}
	server.Exec(t, "UPDATE "+schema+".feed SET at = at - interval '2 min' WHERE seq < 3")
	eventually(t, "only the last row is left", func() bool {
		return slices.Equal(server.Exec(t, "SELECT seq FROM "+schema+".feed"), []string{"3"})
	})
}

// TestAPruningRemovesABoundedPartOfTheFeed: it is part of a renewal, which must not take
// long, and a node that was slow to follow may have kept very many rows.
func TestAPruningRemovesABoundedPartOfTheFeed(t *testing.T) {
	t.Parallel()
	server, schema, _ := ownNode(t)
	server.Exec(t, strings.ReplaceAll(`CREATE TABLE @pruned (n int8);
		CREATE FUNCTION @note_pruned() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO @pruned SELECT count(*) FROM gone; RETURN NULL; END';
		CREATE TRIGGER pruned AFTER DELETE ON @feed REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION @note_pruned();
		INSERT INTO @feed (seq, node, keys, at) SELECT i, 'two', '{}', now() - interval '2 min' FROM generate_series(1, 12000) i`, "@", schema+"."))
	eventually(t, "only the last row is left", func() bool {
		return server.Exec(t, "SELECT count(*) FROM "+schema+".feed")[0] == "1"
	})
	if removed := server.Exec(t, "SELECT n FROM "+schema+".pruned WHERE n > 5000"); len(removed) > 0 {
		t.Errorf("%s rows were removed at once", removed)
	}
}

func TestANodeThatHearsNoNotificationsAsksForThem(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	proxy.Mute()
	f := &follower{}
	open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	two := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	for i := range 3 {
		put(t, two, fmt.Sprintf("f/%d", i), "")
		if behind, err := two.Settled(time.Minute); err != nil || len(behind) != 0 {
			t.Fatalf("Settled: %q, %v", behind, err)
		}
	}
	eventually(t, "a recall", func() bool { // each may be lost
		two.Recall([]byte("an account"))
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Contains(f.recalls, "an account")
	})
	eventually(t, "it was told of all, or has read everything again because it had lost touch", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Equal(f.changed, []string{"f/0", "f/1", "f/2"}) && f.missed == 0 || f.missed > 0 && len(f.stale) > 0
	})
}
