// Command bench measures what till costs beside Caddy's plain reverse_proxy:
// CPU per request, latency, and the delay of streamed events, in alternating
// rounds of the same run, against the same upstream, with the same load. Run
// it with `make bench`.
//
// It builds Caddy, starts it twice (once as a plain reverse_proxy, once with
// till and a busy key) and an upstream in a process of its own, so that each
// one's CPU time is its own. Everything stays on loopback and ends by itself.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

var (
	rounds   = flag.Int("rounds", 20, "rounds of each of the two")
	length   = flag.Duration("length", 1500*time.Millisecond, "length of a round under load")
	parallel = flag.Int("parallel", 16, "connections under load")
	events   = flag.Int("events", 200, "events of the stream that each round measures")
	metered  = flag.Bool("metered", false, "limit the key in tokens and dollars, so that every answer is measured")
	binary   = flag.String("caddy", "", "a Caddy with till to measure (default: built from this checkout)")
	stores   = flag.String("dir", "", "where the stores are for the time of the run (default: in memory, /dev/shm, where there is such a place)")
	profiles = flag.String("profile", "", "write CPU profiles of both to this directory instead of measuring them")
	streams  = flag.Int("streams", 0, "measure instead what this number of open streams costs, and how fast they end with their key")
	nodes    = flag.Int("nodes", 0, "measure this number of nodes over one PostgreSQL database, beside both")
	scale    = flag.Int("scale", 0, "measure instead a store of this number of keys: mint, open, list, revoke, forget")
	database = flag.Bool("database", false, "with -scale: move the keys into a PostgreSQL database and back, and repair it")
	bounds   = flag.Bool("bounds", false, "print how many times the true count of tokens requests are held to instead, for texts in fourteen scripts")
	strict   = flag.Bool("strict", false, "fail where -bounds misses its goal")
	phase    = flag.String("scale-phase", "", "internal: run one phase of -scale")
	scaleDir = flag.String("scale-dir", "", "internal: where -scale-phase has its store")
	cgroup   = flag.String("scale-cgroup", "", "internal: the control group that limits the memory of -scale-phase limit")
	serve    = flag.String("serve", "", "internal: be the upstream on this address")
)

// eventPause lies between two events of a stream.
const eventPause = 2 * time.Millisecond

func main() {
	flag.Parse()
	if *serve != "" {
		fail(serveUpstream(*serve))
	}
	switch {
	case *phase != "":
		fail(runPhase(os.Stdout, *phase, estate{*scaleDir, *scale, *cgroup}))
	case *bounds:
		fail(reportBounds(os.Stdout, *strict))
	case *scale > 0 && *database:
		fail(runScaleDatabase(os.Stdout, *scale))
	case *scale > 0:
		fail(runScale(os.Stdout, *scale))
	default:
		fail(run())
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// buildCaddy builds the Caddy that is measured, unless one was given.
func buildCaddy(dir string) error {
	if *binary != "" {
		return nil
	}
	*binary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", *binary, "github.com/till-proxy/till/cmd/caddy")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building caddy: %w", err)
	}
	return nil
}

func run() (err error) {
	if *rounds < 1 || *parallel < 1 || *events < 2 || *length <= 0 {
		return errors.New("-rounds, -parallel and -length must be positive, -events at least 2")
	}
	// An interrupt ends the run like any error, so that no process stays behind.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)

	if *stores == "" {
		// The benchmark compares CPU time. On a disk that other processes keep busy,
		// a busy key waits for each of its blocks; measure that with -dir.
		if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
			*stores = "/dev/shm"
		}
	}
	dir, err := os.MkdirTemp(*stores, "till-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := buildCaddy(dir); err != nil {
		return err
	}
	to, back, err := startUpstream()
	if err != nil {
		return err
	}
	defer end(back)
	stock, err := startSide(dir, "stock", to, "", plainProxy(to))
	if err != nil {
		return err
	}
	defer end(stock.cmd)
	till, err := startSide(dir, "till", to, "", "till")
	if err != nil {
		return err
	}
	defer end(till.cmd)

	sides := []*side{stock, till}
	for _, s := range sides {
		if err := s.warmUp(); err != nil {
			return err
		}
	}
	if *streams > 0 {
		return reportStreams(os.Stdout, *streams, stock, till)
	}
	if *nodes > 0 {
		return reportNodes(os.Stdout, dir, to, till)
	}
	if *profiles != "" {
		return errors.Join(stock.profile(*profiles), till.profile(*profiles))
	}
	var direct []time.Duration
	for i := range *rounds {
		d, err := streamDelay(to, "")
		if err != nil {
			return err
		}
		direct = append(direct, d)
		for _, s := range sides {
			select {
			case s := <-interrupted:
				return fmt.Errorf("ended by signal %v", s)
			default:
			}
			if err := s.measure(); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i+1, *rounds)
		// The order alternates, so that neither side always finds the other's warm
		// caches.
		sides[0], sides[1] = sides[1], sides[0]
	}
	commits, err := till.commits()
	if err != nil {
		return err
	}
	return report(os.Stdout, stock, till, direct, commits)
}
