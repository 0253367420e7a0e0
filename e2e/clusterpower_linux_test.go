package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestTorturePowerCutsOfTheDatabase cuts the power of the disk that PostgreSQL has, while
// two nodes use it.
func TestTorturePowerCutsOfTheDatabase(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	database := postgrestest.Start(t)
	if err := database.Kill(); err != nil {
		t.Fatal(err)
	}
	former := database.Data() + "-former"
	if err := errors.Join(os.Rename(database.Data(), former), os.Mkdir(database.Data(), 0o700)); err != nil {
		t.Fatal(err)
	}
	disk := newExt4(t, database.Data())
	for _, args := range [][]string{{"cp", "-a", former + "/.", disk.dir}, {"sync", "-f", disk.dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	l := newClusterLoad(t, clusterOptions{nodes: 2, on: database})
	cuts := tortureSize(t, 1, 3)
	l.renew(l.any(), 1000)
	home := l.clients()
	for range cuts {
		l.flows(1 + rand.Int64N(200))
		cutPower(t, disk.dir, rand.IntN(2) == 0)
		if err := database.Kill(); err != nil {
			t.Fatal(err)
		}
		disk.mountAgain(l.nodes[0])
		if err := database.Start(); err != nil {
			t.Fatal(err)
		}
		l.areReady()
		l.renew(l.any(), 1000)
	}
	home()
	l.losesAtMost(0, fmt.Sprint(cuts, " power cuts"))
}
