package postgres

import (
	"context"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestAConnectionInUseWhenThePoolIsFlushedIsNotUsedAgain: it leads to a server that was left,
// and would be taken first each time.
func TestAConnectionInUseWhenThePoolIsFlushedIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	config, err := parse("dsn", postgrestest.Shared(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	p := newPool(config, 4, func(context.Context, *conn) error { return nil })
	t.Cleanup(p.close)
	take := func() *conn {
		t.Helper()
		c, err := p.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := take()
	p.give(first)
	if again := take(); again != first {
		t.Error("a connection that works is not used again")
	}
	p.flush()
	p.give(first)
	if !first.pg.IsClosed() {
		t.Error("a connection that was in use when the pool was flushed stays open")
	}
	second := take()
	p.give(second)
	if second == first {
		t.Error("a connection that was in use when the pool was flushed is used again")
	}
	if again := take(); again != second {
		t.Error("a connection that was made after the pool was flushed is not used again")
	}
}
