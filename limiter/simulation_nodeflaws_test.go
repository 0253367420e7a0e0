package limiter_test

import (
	"testing"
	"testing/synctest"

	"github.com/till-proxy/till/limiter/store/storetest"
)

// TestTheSimulationFindsPlantedFaults runs simulations in which a check is left out, and
// requires that they miss it.
func TestTheSimulationFindsPlantedFaults(t *testing.T) {
	t.Parallel()
	const seeds = 60
	for name, planted := range map[string]struct {
		flaw storetest.Flaw
		from uint64 // the seed to begin with, which finds it soon
	}{
		"an old process goes on under its name": {storetest.Impostors, 0},
		"a node without contact goes on":        {storetest.Timeless, 1},
		"no node hears what is asked back":      {storetest.Deaf, 2},
		"a node out of touch hears no doubt":    {storetest.Reticent, 19},
		"a node writes to a server it has left": {storetest.Lingering, 13},
		"a node reads what it has left":         {storetest.Outdated, 20},
		"a node keeps a doubt to itself":        {storetest.Misplaced, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := planted.from; seed < planted.from+seeds; seed++ {
				if found := findIn(t, seed, planted.flaw); found != "" {
					t.Logf("seed %d: %s", seed, found)
					return
				}
			}
			t.Errorf("%d seeds have found nothing", seeds)
		})
	}
}

// findIn runs one seed with a flaw, and returns what that finds.
func findIn(t *testing.T, seed uint64, flaw storetest.Flaw) (found finding) {
	s := &ensemble{seed: seed, flaw: flaw}
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			switch v := recover().(type) {
			case nil:
			case finding:
				found = v
			default:
				panic(v)
			}
		}()
		s.t = t
		s.run()
	})
	return found
}
