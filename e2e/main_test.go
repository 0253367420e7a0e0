package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// caddyBinary is built once for all tests, with the race detector where they run
// with it themselves; plainBinary is without, for bodies and answers of megabytes,
// over which the detector takes minutes.
var caddyBinary, plainBinary string

func TestMain(m *testing.M) {
	// What a phase of the same run has built is there already.
	dir, remove := os.Getenv(runVariable), func(string) error { return nil }
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "till-e2e"); err != nil {
			panic(err)
		}
		remove = os.RemoveAll
	}
	plainBinary = filepath.Join(dir, "caddy-plain")
	caddyBinary = plainBinary
	var builds sync.WaitGroup // a link keeps one processor busy, most of the time
	if raced {
		caddyBinary = filepath.Join(dir, "caddy")
		builds.Go(func() { build(caddyBinary, "-race") })
	}
	builds.Go(func() { build(plainBinary) })
	builds.Wait()
	waitTogether()
	code := m.Run()
	if err := errors.Join(endBrowser(), postgrestest.End(), remove(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// build makes a Caddy with till.
func build(to string, flags ...string) {
	cmd := exec.Command("go", append([]string{"build", "-buildvcs=false", "-ldflags=-w", "-o", to}, append(flags, "../cmd/caddy")...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building caddy:", err)
		os.Exit(1)
	}
}

// waitTogether lets many tests run at a time, unless -parallel says how many:
// most of the time they wait, and many of them for their turn.
func waitTogether() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(32*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
}
