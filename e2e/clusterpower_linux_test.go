package e2e

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestTorturePowerCutsOfTheDatabase cuts the power of the disk that PostgreSQL has, while
// two nodes use it.
func TestTorturePowerCutsOfTheDatabase(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	database := postgrestest.Start(t)
	image := filepath.Join(t.TempDir(), "disk")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v %s", name, args, err, out)
		}
	}
	if err := errors.Join(database.Kill(), os.WriteFile(image, nil, 0o600), os.Truncate(image, 512<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, AND NOT SHOWN: no mkfs.ext4: %v %s", err, out)
	}
	former := database.Data() + "-former"
	if err := errors.Join(os.Rename(database.Data(), former), os.Mkdir(database.Data(), 0o700)); err != nil {
		t.Fatal(err)
	}
	mounted(t, database.Data(), "-o", "loop", image)
	run("cp", "-a", former+"/.", database.Data())
	run("sync", "-f", database.Data())
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	l := newClusterLoad(t, clusterOptions{nodes: 2, on: database})
	cuts := tortureSize(t, 1, 3)
	l.renew(l.any(), 1000)
	home := l.clients()
	for range cuts {
		l.flows(1 + rand.Int64N(200))
		cutPower(t, database.Data(), rand.IntN(2) == 0)
		if err := database.Kill(); err != nil {
			t.Fatal(err)
		}
		unmount(t, database.Data())
		l.nodes[0].eventually("nobody has the disk any more", func() bool {
			loops, err := exec.Command("losetup", "-j", image).Output()
			if err != nil {
				t.Fatal("looking for who has the disk: ", err)
			}
			return len(loops) == 0
		})
		run("mount", "-o", "loop", image, database.Data())
		if err := database.Start(); err != nil {
			t.Fatal(err)
		}
		for _, s := range l.nodes {
			s.isReady()
		}
		l.renew(l.any(), 1000)
	}
	home()
	all := l.drain()
	if all.lost() > all.unanswered {
		t.Errorf("%d of %d were not forwarded, and %d were unanswered", all.lost(), all.limit, all.unanswered)
	}
	l.verified()
	t.Logf("%d power cuts, %d keys: forwarded %d of %d, %d unanswered (%s)", cuts, len(l.all), all.forwarded, all.limit, all.unanswered, l.answered())
}
