package postgres_test

import (
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

func TestARequestThatNeedsTheDatabaseTakesTwoRoundTrips(t *testing.T) {
	t.Parallel()
	proxy := postgrestest.NewProxy(t, postgrestest.Shared(t))
	c := newCluster(t, proxy.DSN())
	k := c.find(0, c.mint(1000))
	eventually(t, "nothing runs any more", proxy.Idle)
	proxy.Trips()
	const requests = 40
	for range requests {
		if refusal := spend(k); refusal != nil {
			t.Fatal(refusal.Message)
		}
	}
	writes := proxy.Trips().Writes
	if len(writes) == 0 || len(writes) > requests {
		t.Errorf("%d requests took %d transactions", requests, len(writes))
	}
	for i, n := range writes {
		if n != 2 {
			t.Errorf("transaction %d took %d round trips, want 2", i, n)
		}
	}
}

func TestAKeyThatIsNotInMemoryIsReadInTwoRoundTrips(t *testing.T) {
	t.Parallel()
	proxy := postgrestest.NewProxy(t, postgrestest.Shared(t))
	c := newCluster(t, postgrestest.Shared(t).DSN(), proxy.DSN())
	lookup := c.mint(1000)
	eventually(t, "nothing runs any more", proxy.Idle)
	proxy.Trips()
	c.find(1, lookup)
	var views []int
	eventually(t, "two looks at the database have ended", func() bool {
		views = append(views, proxy.Trips().Views...)
		return len(views) >= 2
	})
	for _, n := range views {
		if n != 1 {
			t.Errorf("the looks took %d round trips, want one each", views)
		}
	}
}
