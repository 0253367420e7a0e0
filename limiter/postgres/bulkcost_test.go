package postgres_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
)

// TestWhatIsDoneToManyRowsTakesFewRoundTripsInATransaction: no other node commits while it
// runs, and the database may be some milliseconds away.
func TestWhatIsDoneToManyRowsTakesFewRoundTripsInATransaction(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	proxy := postgrestest.NewProxy(t, server)
	c := newCluster(t, proxy.DSN(), server.DSN()) // the first leads
	const keys, events = 100, 300
	mint := func(owner string, life time.Duration) {
		t.Helper()
		for range keys {
			for last := time.Now().Add(eventuallyPatience); ; {
				ends := time.Now().Add(life)
				err := update(func() error {
					_, err := tryMint(c.nodes[1], func(k *record.Key) { k.Owner, k.ExpiresAt = owner, ends })
					return err
				})
				if err == nil {
					break
				}
				if now := time.Now(); now.Before(ends) || now.After(last) { // otherwise it would have ended before it was made
					t.Fatal(err)
				}
			}
		}
	}
	longest := func() int { return slices.Max(append(proxy.Trips().Writes, 0)) }
	left := func(prefix string) int64 {
		t.Helper()
		return c.number(`SELECT count(*) FROM ` + c.schema + `.kv WHERE starts_with(encode(k, 'escape'), '` + prefix + `')`)
	}

	mint("anna", time.Hour)
	longest()
	j, err := c.nodes[1].RevokeMany(limiter.Operator, limiter.Filter{Owner: "anna"}, false, "")
	if err != nil {
		t.Fatal(err)
	}
	if done, err := c.nodes[0].Await(t.Context(), limiter.Operator, j.Number); err != nil || done.Revoked != keys {
		t.Fatalf("%+v, %v", done, err)
	}
	if n := longest(); n > 12 {
		t.Errorf("revoking %d keys took %d round trips", keys, n)
	}

	server.Exec(t, `INSERT INTO `+c.schema+`.kv SELECT 'n//events/'::bytea || '\x0000000000000001'::bytea || lpad(i::text, 8, '0')::bytea, '{}' FROM generate_series(1, `+strconv.Itoa(events)+`) i`)
	c.nodes[0].Retain(time.Nanosecond)
	eventually(t, "old keys and events are forgotten", func() bool { return left("k/") == 0 && left(`n//events/\000\000\000\000`) == 0 })
	if n := longest(); n > 50 {
		t.Errorf("forgetting %d keys, and %d events, took %d round trips", keys, events, n)
	}
	c.nodes[0].Retain(time.Hour)

	mint("ben", time.Second)
	longest()
	eventually(t, "the keys have ended by themselves", func() bool { return c.nodes[0].Stats().Keys[record.Expired] == keys })
	if n := longest(); n > 12 {
		t.Errorf("ending %d keys whose time is over took %d round trips", keys, n)
	}
}
