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
	for name, flaw := range map[string]storetest.Flaw{
		"an old process goes on under its name": storetest.Impostors,
		"a node without contact goes on":        storetest.Timeless,
		"no node hears what is asked back":      storetest.Deaf,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				if found := findIn(t, seed, flaw); found != "" {
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
