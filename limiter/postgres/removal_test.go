package postgres_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/record"
)

// TestWhatARemovedNodeHasUsedCountsOnceIfItsProcessLives: the node was only cut off, and opens
// the database again with what it has in memory. That was counted when it was removed.
func TestWhatARemovedNodeHasUsedCountsOnceIfItsProcessLives(t *testing.T) {
	t.Parallel()
	p, networks := slowPair(t)
	const limit, used = 300, 60
	k := mint(t, p.nodes[0], limit)
	for range used {
		forward(t, p.nodes[1], k)
	}
	networks[1].Cut()
	var removed limiter.NodeRemoved
	eventually(t, "the node can be removed", func() bool {
		done, err := p.nodes[0].RemoveNode(t.Context(), limiter.Operator, "two")
		if err != nil && !errors.Is(err, limiter.ErrNodeLives) {
			t.Fatal(err)
		}
		removed = done
		return err == nil
	})
	networks[1].Heal()
	former := p.nodes[1]
	eventually(t, "the node knows that it has to begin anew", func() bool { return former.Failed() != nil })
	t.Log(former.Close())
	log := slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", "two")
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: networks[1].DSN(), Node: "two", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	again, err := limiter.Open(limiter.Options{Store: s, Clock: s.Clock(), Logger: log, After: former})
	if err != nil {
		t.Fatal(errors.Join(err, s.Close()))
	}
	defer again.Close()
	p.nodes[1] = again
	lost := removed.Forfeited[record.Activations]
	if n := used + p.drain(k); n > limit || n < limit-lost {
		t.Errorf("%d requests of %d, of which at most %d were lost", n, limit, lost)
	}
}
