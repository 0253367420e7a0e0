package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// TestTortureKillsOfNodesForwardNothingExtraAndLoseOnlyWhatIsInFlight kills one node or
// another while all are in use, and starts it again.
func TestTortureKillsOfNodesForwardNothingExtraAndLoseOnlyWhatIsInFlight(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	l := newClusterLoad(t, clusterOptions{nodes: 2})
	kills := tortureSize(t, 4, 10)
	l.renew(l.any(), 400)
	home := l.clients()
	for range kills {
		l.flows(1 + rand.Int64N(200))
		i := rand.IntN(len(l.nodes))
		l.nodes[i].kill9()
		l.renew(l.nodes[(i+1)%len(l.nodes)], 400) // and the other goes on
		l.flows(1 + rand.Int64N(100))
		l.nodes[i].start()
		l.nodes[i].isReady()
		l.renew(l.any(), 400)
	}
	home()
	l.losesAtMost(0, fmt.Sprint(kills, " kills"))
}

// blockOfNode is the most that a node reserves of a key at a time.
const blockOfNode = 256

// stopped is how long a node is stopped or cut off: longer than its session lives, and
// 30 seconds in make torture.
func stopped() time.Duration {
	if os.Getenv(tortureVariable) != "" {
		return 30 * time.Second
	}
	return 12 * time.Second
}

// TestANodeThatIsStoppedOrCutOffForwardsNothingExtraAndRefusesUntilItHasCaughtUp takes a
// node from the others for longer than its session lives, in each of the ways there are.
func TestANodeThatIsStoppedOrCutOffForwardsNothingExtraAndRefusesUntilItHasCaughtUp(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]struct {
		take, back func(*server, *postgrestest.Proxy) error
		runs       bool // the node answers meanwhile
	}{
		"SIGSTOP": {
			func(s *server, _ *postgrestest.Proxy) error { return s.signal(syscall.SIGSTOP) },
			func(s *server, _ *postgrestest.Proxy) error { return s.signal(syscall.SIGCONT) }, false,
		},
		"its connections are cut": {
			func(_ *server, p *postgrestest.Proxy) error { p.Cut(); return nil },
			func(_ *server, p *postgrestest.Proxy) error { p.Heal(); return nil }, true,
		},
		"its connections carry nothing": {
			func(_ *server, p *postgrestest.Proxy) error { p.Hold(); return nil },
			func(_ *server, p *postgrestest.Proxy) error { p.Heal(); return nil }, true,
		},
		"its connections carry no answers": {
			func(_ *server, p *postgrestest.Proxy) error { p.Deafen(); return nil },
			func(_ *server, p *postgrestest.Proxy) error { p.Heal(); return nil }, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			l := newClusterLoad(t, clusterOptions{nodes: 2, apart: true})
			rest, taken := l.nodes[0], l.nodes[1]
			t.Cleanup(func() { _ = taken.signal(syscall.SIGCONT) }) // or it would not stop
			l.renew(rest, 500)                                      // what is left has to be used up
			revoked := l.key(rest, 1000)
			use := func() clusterAnswer { // ask does not expect its end
				return answerTo(l.client, taken.request(t.Context(), revoked.key, numberHeader, revoked.number))
			}
			taken.eventually("its key is used", func() bool { return use().status == http.StatusOK })
			home := l.clients()
			l.flows(100)
			at := time.Now()
			if err := way.take(taken, l.networks[1]); err != nil {
				t.Fatal(err)
			}
			var returned time.Duration
			var revoke sync.WaitGroup
			revoke.Go(func() {
				rest.act("POST", "/keys/"+revoked.id+"/revoke", object{})
				returned = time.Since(at)
			})
			if way.runs {
				rest.eventually("the node refuses", func() bool { return use().away() })
			}
			refuses := time.Since(at)
			revoke.Wait()
			before := revoked.forwarded.Load()
			time.Sleep(time.Until(at.Add(stopped()))) // it is what is tried
			if err := way.back(taken, l.networks[1]); err != nil {
				t.Fatal(err)
			}
			taken.eventually("the node has heard of the revocation", func() bool {
				return use().status == http.StatusForbidden
			})
			if n := revoked.forwarded.Load(); n != before {
				t.Errorf("%d requests of a revoked key were forwarded after the node came back", n-before)
			}
			l.flows(100)
			home()
			l.losesAtMost(int64(len(l.all)*blockOfNode), // a block of each key
				fmt.Sprintf("the revocation returned after %s, the node refused after %s", returned.Round(time.Millisecond), refuses.Round(time.Millisecond)))
		})
	}
}

// TestNodesGoOnExactlyWhenTheirDatabaseHasCrashed ends PostgreSQL at once, as `pg_ctl stop
// -m immediate` does, while all nodes are in use, and starts it again.
func TestNodesGoOnExactlyWhenTheirDatabaseHasCrashed(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	l := newClusterLoad(t, clusterOptions{nodes: 2, on: database})
	crashes := tortureSize(t, 2, 3)
	l.renew(l.any(), 1000)
	home := l.clients()
	for range crashes {
		l.flows(1 + rand.Int64N(200))
		if err := errors.Join(database.Kill(), database.Start()); err != nil {
			t.Fatal(err)
		}
		l.areReady()
		l.renew(l.any(), 1000)
	}
	home()
	l.losesAtMost(0, fmt.Sprint(crashes, " crashes"))
}

// failsOver lets a standby take over from the primary of all nodes, which is ended first,
// as a cluster manager does.
func (l *clusterLoad) failsOver(standby *postgrestest.Server) {
	l.t.Helper()
	if err := l.database.Kill(); err != nil {
		l.t.Fatal(err)
	}
	standby.Promote(l.t)
	for _, network := range l.networks {
		network.Lead(standby)
	}
}

// closed reports whether a node says that its store is in doubt, and refuses a key.
func (l *clusterLoad) closed(s *server, m *member) bool {
	return s.inDoubt() && l.ask(s, m).away()
}

// inDoubt reports whether a server asks for a repair of its store.
func (s *server) inDoubt() bool {
	_, answer := s.api("GET", "/stats", nil)
	return strings.Contains(fmt.Sprint(answer), "repair --forfeit")
}

// TestNodesGoOnExactlyWhenAStandbyTakesOverThatHasEverything promotes a standby by
// streaming replication.
func TestNodesGoOnExactlyWhenAStandbyTakesOverThatHasEverything(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	standby := database.Standby(t)
	l := newClusterLoad(t, clusterOptions{nodes: 2, on: database, apart: true})
	l.renew(l.any(), 1000)
	home := l.clients()
	l.flows(200)
	for _, network := range l.networks {
		network.Cut() // nothing is committed from here on
	}
	database.CaughtUp(t, standby)
	l.failsOver(standby)
	for i, network := range l.networks {
		network.Heal()
		l.nodes[i].isReady()
	}
	l.flows(200)
	home()
	l.losesAtMost(0, "a failover")
}

// TestNodesCloseWhenAStandbyTakesOverThatLacksWhatWasAcknowledged promotes a standby whose
// replication had stopped. Nothing may be forwarded on what it has, by processes that ran
// all the time as well as by those that were killed and started again.
func TestNodesCloseWhenAStandbyTakesOverThatLacksWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	standby := database.Standby(t)
	l := newClusterLoad(t, clusterOptions{nodes: 3, on: database, apart: true})
	l.renew(l.any(), 1000)
	database.CaughtUp(t, standby)
	standby.Lag(t)
	home := l.clients()
	l.flows(300)
	l.nodes[2].kill9()
	l.failsOver(standby)
	for _, s := range l.nodes[:2] {
		s.eventually("the node is closed", func() bool { return l.closed(s, l.pick()) })
	}
	home()
	// What was admitted before may still be on its way: from here on, requests count apart.
	var late member
	l.mu.Lock()
	for _, m := range l.live {
		m.number = strconv.Itoa(len(l.numbers))
	}
	l.numbers = append(l.numbers, &late)
	l.mu.Unlock()
	home = l.clients()
	for _, s := range l.nodes[1:] {
		s.kill9()
		s.start()
		s.eventually("the node that was started again is closed", func() bool { return l.closed(s, l.pick()) })
	}
	home()
	if n := late.forwarded.Load(); n > 0 {
		t.Errorf("%d requests were forwarded by nodes that are closed", n)
	}
	for _, m := range l.all {
		if n := m.forwarded.Load(); n > m.limit {
			t.Errorf("key %s of %d activations forwarded %d", m.id, m.limit, n)
		}
	}
	t.Logf("%d keys: forwarded %d (%s)", len(l.all), l.forwarded.Load(), l.answered())
}

// TestANodeDoesNotGoOnWithADatabaseThatLacksWhatAnotherWasAcknowledged lets one node
// alone write what a standby then lacks.
func TestANodeDoesNotGoOnWithADatabaseThatLacksWhatAnotherWasAcknowledged(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	standby := database.Standby(t)
	l := newClusterLoad(t, clusterOptions{nodes: 2, on: database, apart: true})
	m := l.key(l.nodes[0], 100)
	l.ask(l.nodes[1], m)
	database.CaughtUp(t, standby)
	standby.Lag(t)
	l.nodes[0].eventually("it has reserved what the standby lacks", func() bool { return l.ask(l.nodes[0], m).status == http.StatusOK })
	for range 60 {
		l.ask(l.nodes[0], m)
	}
	l.failsOver(standby)
	for _, s := range l.nodes {
		s.eventually("the node is closed", func() bool { return l.closed(s, m) })
	}
	if n := m.forwarded.Load(); n > m.limit {
		t.Errorf("%d of %d were forwarded", n, m.limit)
	}
	t.Logf("forwarded %d of %d (%s)", m.forwarded.Load(), m.limit, l.answered())
}
