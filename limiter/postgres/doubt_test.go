package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestADoubtIsWrittenIntoTheCopyThatItIsAbout: between two connections, the address may
// have been given to the copy that has everything.
func TestADoubtIsWrittenIntoTheCopyThatItIsAbout(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	_, schema := postgrestest.Schema(t)
	s, err := Open(t.Context(), Options{DSN: server.DSN(), Schema: schema, Node: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	row := server.Exec(t, "SELECT (SELECT value FROM "+schema+".meta WHERE name = 'database') || ' ' || generation FROM "+schema+".state")
	if _, err := fmt.Sscan(row[0], &s.database, &s.generation); err != nil {
		t.Fatal(err)
	}
	dials := 0
	s.config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; dials > 1 {
			return nil, errors.New("this would be another copy")
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	before := state{database: s.database, commits: map[string]int64{"one": 1}}
	if certain, err := s.lookAgain(before, &loss{"it lacks a commit"}); certain || err != nil {
		t.Fatalf("looking again: certain %t, %v", certain, err)
	}
	if doubt := server.Exec(t, "SELECT doubt FROM "+schema+".state")[0]; doubt != "it lacks a commit" {
		t.Errorf("the copy that lacks a commit says %q", doubt)
	}
}
