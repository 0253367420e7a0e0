package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// scale measures one node with many keys: the limiter on a real store, without
// HTTP. Each phase is a process of its own, so that none sees what another left
// in memory.

// measured is one thing that was measured, beside what it should be.
type measured struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Most  float64 `json:"most,omitempty"`
	Least float64 `json:"least,omitempty"`
}

func (f measured) goal() string {
	switch {
	case f.Most > 0:
		return fmt.Sprintf("at most %s", number(f.Most, f.Unit))
	case f.Least > 0:
		return fmt.Sprintf("at least %s", number(f.Least, f.Unit))
	}
	return ""
}

func (f measured) met() bool {
	return (f.Most == 0 || f.Value <= f.Most) && (f.Least == 0 || f.Value >= f.Least)
}

func number(v float64, unit string) string {
	if v >= 100 || v == float64(int64(v)) {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

// estate is what the phases know of the keys: string i is made from i, so that
// none has to be kept.
type estate struct {
	dir  string
	keys int
}

const (
	owners  = 1000
	callers = 256
)

func (e estate) lookup(i int) token.Lookup {
	return token.Lookup(sum256(uint64(i)))
}

func (e estate) open() (*limiter.Limiter, error) {
	store, err := limiter.OpenBadger(filepath.Join(e.dir, "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return limiter.Open(limiter.Options{
		Store: store, Shadow: filepath.Join(e.dir, "store", "shadow"), Anchor: filepath.Join(e.dir, "store", "anchor"),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Roles:  map[string]limiter.Role{"ci": limiter.NewRole()},
	})
}

// every runs fn for 0 to n-1 on many goroutines, and returns the first error.
func every(n, at int, fn func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := fn(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// mint makes all keys: most have a thousand owners, a tenth one alone.
func (e estate) mint(say func(measured)) (err error) {
	l, err := e.open()
	if err != nil {
		return err
	}
	began := time.Now()
	err = every(e.keys, callers, func(i int) error {
		spec := &limiter.Key{
			Name: fmt.Sprintf("run %d", i), Upstream: "openai", Custody: limiter.CustodyHeld, Role: "ci",
			Owner: fmt.Sprintf("owner-%d", i%owners), Limit: limiter.NoLimits(), Labels: map[string]string{"n": strconv.Itoa(i % 7)},
		}
		if i%10 == 0 {
			spec.Owner = "many"
		}
		spec.Limit[limiter.Activations] = 500
		spec.ExpiresAt = began.Add(90 * 24 * time.Hour)
		_, err := l.Mint(context.Background(), limiter.Operator, spec, limiter.Birth{Lookup: e.lookup(i)})
		return err
	})
	took := time.Since(began)
	if err = errors.Join(err, l.Close()); err != nil {
		return err
	}
	size, err := sizeOf(e.dir)
	say(measured{Name: fmt.Sprintf("mint, %d callers", callers), Value: float64(e.keys) / took.Seconds(), Unit: "a second", Least: 3000})
	say(measured{Name: "store", Value: float64(size) / 1e6, Unit: "MB"})
	return err
}

// use answers requests and lists, and revokes a tenth.
func (e estate) use(say func(measured)) (err error) {
	began := time.Now()
	l, err := e.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	opened := time.Now()
	say(measured{Name: "open", Value: ms(opened.Sub(began)), Unit: "ms"})
	if err := request(l, e.lookup(e.keys/2)); err != nil {
		return err
	}
	say(measured{Name: "first answer after that", Value: ms(time.Since(opened)), Unit: "ms", Most: 100})

	// Busy and slow keys, for as long as it takes to be in use.
	busy := min(e.keys, 20_000)
	requests := 20 * busy
	began = time.Now()
	err = every(requests, callers, func(i int) error {
		n := rand.IntN(busy)
		if i%10 == 0 {
			n = rand.IntN(e.keys)
		}
		return request(l, e.lookup(n))
	})
	if err != nil {
		return err
	}
	say(measured{Name: fmt.Sprintf("requests with %d keys", min(busy+requests/10, e.keys)), Value: float64(requests) / time.Since(began).Seconds(), Unit: "a second"})

	for _, list := range []struct {
		name string
		f    limiter.Filter
	}{
		{"newest", limiter.Filter{}},
		{"owner", limiter.Filter{Owner: "owner-7"}},
		{"owner of a tenth", limiter.Filter{Owner: "many"}},
		{"role", limiter.Filter{Role: "ci"}},
		{"status", limiter.Filter{Status: limiter.Active}},
		{"status, none", limiter.Filter{Status: limiter.Expired}},
		{"upstream", limiter.Filter{Upstream: "openai"}},
		{"created_by", limiter.Filter{CreatedBy: "operator"}},
		{"last use", limiter.Filter{Sort: "-last_used"}},
		{"unused for 0 s", limiter.Filter{UnusedFor: time.Second}},
		{"name", limiter.Filter{Query: fmt.Sprintf("run %d", e.keys/2)}},
		{"label, whole page", limiter.Filter{Labels: map[string]string{"n": "3"}}},
	} {
		took, err := page(l, list.f)
		if err != nil {
			return fmt.Errorf("list by %s: %w", list.name, err)
		}
		m := measured{Name: "page of 50 by " + list.name, Value: ms(took), Unit: "ms", Most: 20}
		if len(list.f.Labels) > 0 {
			m.Most = 0 // no index leads there
		}
		say(m)
	}
	say(measured{Name: "RSS in use", Value: rss("VmRSS"), Unit: "MB", Most: 300})
	say(measured{Name: "of that, pages of the store's files", Value: rss("RssFile"), Unit: "MB"})

	flood := min(e.keys, 500_000)
	began = time.Now()
	before := rss("RssAnon")
	err = every(flood, callers, func(i int) error {
		if _, r := l.Find(context.Background(), e.lookup(e.keys+1+i)); r == nil {
			return errors.New("an unknown key was found")
		}
		return nil
	})
	if err != nil {
		return err
	}
	say(measured{Name: "unknown keys refused", Value: float64(flood) / time.Since(began).Seconds(), Unit: "a second"})
	say(measured{Name: "memory that these cost", Value: max(rss("RssAnon")-before, 0), Unit: "MB", Most: 32})

	began = time.Now()
	j, err := l.RevokeMany(limiter.Operator, limiter.Filter{Owner: "many"}, false, "bench")
	if err != nil {
		return err
	}
	say(measured{Name: "bulk revoke, until all are refused", Value: ms(time.Since(began)), Unit: "ms"})
	if j, err = l.Await(context.Background(), limiter.Operator, j.Number); err != nil {
		return err
	}
	if j.Revoked != int64((e.keys+9)/10) {
		return fmt.Errorf("%d revoked, want %d", j.Revoked, (e.keys+9)/10)
	}
	took := time.Since(began).Seconds()
	say(measured{Name: fmt.Sprintf("bulk revoke of %d keys, durable", j.Revoked), Value: took, Unit: "s", Most: max(10*float64(j.Revoked)/100_000, 1)})
	return nil
}

// forget lets the sweeper forget the revoked tenth, and looks at the files.
func (e estate) forget(say func(measured)) (err error) {
	before, err := sizeOf(e.dir)
	if err != nil {
		return err
	}
	l, err := e.open()
	if err != nil {
		return err
	}
	dead := l.Stats().Keys[limiter.Revoked]
	l.Retain(time.Nanosecond)
	began := time.Now()
	for deadline := began.Add(30 * time.Minute); l.Stats().Keys[limiter.Revoked] > 0; {
		if time.Now().After(deadline) {
			return errors.Join(errors.New("ended keys are not forgotten"), l.Close())
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
	say(measured{Name: fmt.Sprintf("forgetting those %d keys", dead), Value: time.Since(began).Seconds(), Unit: "s"})
	say(measured{Name: "RSS after that", Value: rss("VmRSS"), Unit: "MB", Most: 300})
	if err := l.Close(); err != nil {
		return err
	}
	after, err := sizeOf(e.dir)
	say(measured{Name: "store before", Value: float64(before) / 1e6, Unit: "MB"})
	say(measured{Name: "store after they were forgotten, audit log included", Value: float64(after) / 1e6, Unit: "MB"})
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func request(l *limiter.Limiter, lookup token.Lookup) error {
	k, refusal := l.Find(context.Background(), lookup)
	if refusal != nil {
		return refusal
	}
	g := new(limiter.Grant)
	ask := limiter.Ask{Bound: limiter.Amounts{limiter.Activations: 1}, Method: "POST", Path: "/v1/chat/completions"}
	if refusal := k.Reserve(context.Background(), &ask, g); refusal != nil {
		return refusal
	}
	g.Settle(limiter.Amounts{limiter.Activations: 1})
	return nil
}

// page asks for up to twenty pages in a row and returns how long one took, at the
// median.
func page(l *limiter.Limiter, f limiter.Filter) (time.Duration, error) {
	f.Limit = 50
	var took []time.Duration
	for range 20 {
		began := time.Now()
		p, err := l.List(context.Background(), limiter.Operator, f)
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
		if f.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// rss is a line of /proc/self/status, in MB; 0 where there is none.
func rss(name string) float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return 0
			}
			return n / 1024
		}
	}
	return 0
}

func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n, err := onDisk(path)
		size += n
		return err
	})
	return size, err
}

// phases are what scale measures, in order.
func (e estate) phases() []struct {
	name string
	run  func(func(measured)) error
} {
	return []struct {
		name string
		run  func(func(measured)) error
	}{{"mint", e.mint}, {"use", e.use}, {"forget", e.forget}}
}

// runScale runs each phase in a process of its own and prints all figures.
func runScale(out io.Writer, keys int) (err error) {
	dir, err := os.MkdirTemp("", "till-scale")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var all []measured
	for _, p := range (estate{dir, keys}).phases() {
		fmt.Fprintf(os.Stderr, "%s\n", p.name)
		cmd := exec.Command(os.Args[0], "-scale", strconv.Itoa(keys), "-scale-phase", p.name, "-scale-dir", dir)
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		var figures []measured
		if err := json.Unmarshal(b, &figures); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		all = append(all, figures...)
	}
	return printFigures(out, keys, all)
}

// runPhase is one of those processes.
func runPhase(out io.Writer, name string, e estate) error {
	var figures []measured
	phases := e.phases()
	i := slices.IndexFunc(phases, func(p struct {
		name string
		run  func(func(measured)) error
	}) bool {
		return p.name == name
	})
	if i < 0 {
		return fmt.Errorf("no phase %q", name)
	}
	if err := phases[i].run(func(f measured) { figures = append(figures, f) }); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(figures)
}

func printFigures(out io.Writer, keys int, all []measured) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%d keys\tmeasured\tgoal\t\n", keys)
	missed := 0
	for _, f := range all {
		verdict := ""
		if f.goal() != "" {
			if verdict = "met"; !f.met() {
				verdict, missed = "MISSED", missed+1
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, number(f.Value, f.Unit), f.goal(), verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if missed > 0 {
		return fmt.Errorf("%d goals were missed", missed)
	}
	return nil
}
