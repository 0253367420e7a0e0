package limiter_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// seedVariable names a seed to replay: that one alone, or the first of as many as
// tortureVariable says.
const seedVariable = "TILL_SEED"

// seeds are those that a simulation runs.
type seeds struct {
	from uint64
	n    int
}

// someSeeds are the first few seeds, or as many as CI takes: always the same, so that what
// lands does not depend on luck. A longer run takes new ones.
func someSeeds(t *testing.T, few, ci int) seeds {
	t.Helper()
	s := seeds{1, tortureSize(t, few, ci)}
	if os.Getenv(tortureVariable) != "" {
		s.from = uint64(time.Now().UnixNano())
	}
	if text := os.Getenv(seedVariable); text != "" {
		from, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s must be a number, got %q", seedVariable, text)
		}
		s = seeds{from, 1}
		if os.Getenv(tortureVariable) != "" {
			s.n = tortureSize(t, 1, 1)
		}
	}
	t.Log(s) // in case one hangs
	return s
}

func (s seeds) String() string { return fmt.Sprintf("%d seeds from %d", s.n, s.from) }

// run runs a simulation for each seed, as many at a time as there are processors, until
// one fails.
func (s seeds) run(t *testing.T, simulate func(t *testing.T, seed uint64)) {
	shares := uint64(runtime.GOMAXPROCS(0))
	for share := range shares {
		t.Run(fmt.Sprint("share", share), func(t *testing.T) {
			t.Parallel()
			for seed := s.from + share; seed < s.from+uint64(s.n) && !t.Failed(); seed += shares {
				simulate(t, seed)
			}
		})
	}
}
