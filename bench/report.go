package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"
)

// row is one figure of both sides.
type row struct {
	name        string
	stock, till []time.Duration
}

// ratios compares the two within each round.
func (r row) ratios() []float64 {
	all := make([]float64, len(r.till))
	for i := range all {
		all[i] = float64(r.till[i]) / float64(max(r.stock[i], 1))
	}
	return all
}

func median[T cmp.Ordered](values []T) T {
	v := slices.Sorted(slices.Values(values))
	return v[len(v)/2]
}

// These are the goals for CPU time, relative to stock Caddy.
const (
	goal        = 1.20 // of a request
	goalMetered = 1.30 // of a request with measured usage
	goalEvent   = 1.35 // of an event with measured usage
)

func report(w io.Writer, stock, till *side, direct []time.Duration, commits commits) error {
	rows := []row{
		{"CPU a request", stock.cpu, till.cpu},
		{"wall time a request", stock.rate, till.rate},
		{"latency p50", stock.p50, till.p50},
		{"latency p99", stock.p99, till.p99},
		{"latency p50, alone", stock.alone, till.alone},
		{"event's delay p50", stock.event, till.event},
		{"CPU an event", stock.eventCPU, till.eventCPU},
	}
	if *metered {
		for i, b := range sized {
			rows = append(rows, row{"CPU, bodies of " + b.name, stock.sized[i], till.sized[i]})
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d rounds of %s each, alternating; %d connections, %d CPUs, %s.\nMedians over the rounds; in brackets the rounds' range.\n\n",
		*rounds, *length, *parallel, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(&b, "%-20s %11s %11s   %s\n", "", "stock", "till", "till / stock")
	for _, r := range rows {
		all := r.ratios()
		fmt.Fprintf(&b, "%-20s %11s %11s   %.3f (%.3f to %.3f)\n",
			r.name, short(median(r.stock)), short(median(r.till)), median(all), slices.Min(all), slices.Max(all))
	}
	fmt.Fprintf(&b, "\nAn event takes %s from the upstream to a client without any proxy: till adds\n%s at the median.\n",
		short(median(direct)), short(median(till.event)-median(direct)))
	fmt.Fprintf(&b, "The store is in %s; it committed %d times, which took %s each.\n", *stores, commits.n, short(commits.mean))
	if *metered {
		judge(&b, "CPU a measured request", median(rows[0].ratios()), goalMetered)
		judge(&b, "CPU a measured event", median(rows[6].ratios()), goalEvent)
		for i := range sized {
			judge(&b, "CPU a measured request of "+sized[i].name, median(rows[7+i].ratios()), sized[i].goal)
		}
	} else {
		judge(&b, "CPU a request", median(rows[0].ratios()), goal)
	}
	b.WriteByte('\n')

	// For benchstat: go run golang.org/x/perf/cmd/benchstat@latest -col /side FILE
	for i := range *rounds {
		for _, s := range []*side{stock, till} {
			fmt.Fprintf(&b, "BenchmarkProxy/side=%s-%d %d %d cpu-ns/op %d p50-ns %d p99-ns\n", s.name, runtime.NumCPU(), s.requests[i],
				s.cpu[i].Nanoseconds(), s.p50[i].Nanoseconds(), s.p99[i].Nanoseconds())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// judge says whether a goal relative to stock Caddy is met.
func judge(w io.Writer, what string, ratio, goal float64) {
	fmt.Fprintf(w, "Goal for %s, at most %.2f × stock: %s with %.3f.\n", what, goal, verdict(ratio <= goal), ratio)
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

func short(d time.Duration) string {
	if d.Abs() < time.Millisecond {
		return d.Round(100 * time.Nanosecond).String()
	}
	return d.Round(time.Microsecond).String()
}
