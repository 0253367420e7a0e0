package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
)

// caddyBinary is built once for all tests, with the race detector where they run
// with it themselves.
var caddyBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "till-e2e")
	if err != nil {
		panic(err)
	}
	caddyBinary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", caddyBinary)
	if raced {
		build.Args = append(build.Args, "-race")
	}
	build.Args = append(build.Args, "../cmd/caddy")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building caddy:", err)
		os.Exit(1)
	}
	waitTogether()
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
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
