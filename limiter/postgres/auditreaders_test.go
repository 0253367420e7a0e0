package postgres_test

import (
	"sync"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestSlowReadersOfTheAuditLogLeaveConnectionsToOthers: a node has few of them.
func TestSlowReadersOfTheAuditLogLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.Shared(t).DSN()
	c := newCluster(t, dsn, dsn)
	lookup := c.mint(1000)
	const readers = 8
	var reading, ended sync.WaitGroup
	goOn := make(chan struct{})
	reading.Add(readers)
	for range readers {
		ended.Go(func() {
			began := sync.OnceFunc(reading.Done)
			defer began()
			err := c.nodes[1].ExportAudit(t.Context(), limiter.Operator, func([]byte) error {
				began()
				<-goOn
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	reading.Wait()
	if refusal := spend(c.find(1, lookup)); refusal != nil {
		t.Error(refusal.Message)
	}
	close(goOn)
	ended.Wait()
}
