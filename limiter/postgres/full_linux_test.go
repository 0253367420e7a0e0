package postgres_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestAFullDatabaseRefusesWhatNeedsSpace has the rows on a small disk of their own.
func TestAFullDatabaseRefusesWhatNeedsSpace(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	disk := server.SmallDisk(t, 16<<20)
	dsn := server.DSN()
	p := newPair(t, server, dsn)
	server.Exec(t, "CREATE TABLESPACE small LOCATION '"+disk+"'")
	server.Exec(t, "ALTER TABLE till.kv SET TABLESPACE small")
	k := mint(t, p.nodes[0], 50)
	forward(t, p.nodes[1], k)
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 32<<20), 0o600); err == nil {
		t.Fatal("the disk is not small")
	}
	full := false
	for range 2000 { // the pages that are there have room for some rows
		if _, err := tryMint(p.nodes[0], activations(1)); err != nil {
			full = true
			break
		}
	}
	if !full {
		t.Fatal("keys are minted on a full disk")
	}
	for _, l := range p.nodes {
		if l.Failed() != nil {
			t.Errorf("it does not heal by itself: %v", l.Failed())
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "keys are minted again", func() bool {
		_, err := tryMint(p.nodes[0], activations(1))
		return err == nil
	})
	if n := p.drain(k) + 1; n != 50 {
		t.Errorf("%d requests of 50", n)
	}
}
