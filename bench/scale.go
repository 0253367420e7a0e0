package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// scale measures one node with many keys: the limiter on a real store, without HTTP.
// Each phase is a process of its own, so that none is affected by what another left
// in memory.

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
		return fmt.Sprintf("≤ %s", number(f.Most, f.Unit))
	case f.Least > 0:
		return fmt.Sprintf("≥ %s", number(f.Least, f.Unit))
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

// estate is what the phases know of the keys: string i is made from i, so that none
// has to be stored.
type estate struct {
	dir    string
	keys   int
	cgroup string // of the phase with limited memory; "": it cannot be created
}

const (
	owners  = 1000
	callers = 256
)

func (e estate) lookup(i int) token.Lookup {
	return sha256.Sum256(strconv.AppendInt(nil, int64(i), 10))
}

func (e estate) open() (*limiter.Limiter, error) {
	store, err := store.OpenBadger(filepath.Join(e.dir, "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return limiter.Open(limiter.Options{
		Store: store, Shadow: filepath.Join(e.dir, "store", "shadow"), Anchor: filepath.Join(e.dir, "store", "anchor"),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Roles:  map[string]record.Role{"ci": record.NewRole()},
	})
}

// every runs fn for 0 to n-1 on as many goroutines as there are callers, and returns the
// first error.
func every(n int, fn func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range callers {
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

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rss returns a value of this process as memoryOf does.
func rss(name string) float64 { return memoryOf("self", name) }

// memoryOf returns a value of /proc/PID/status in MB; 0 if there is none.
func memoryOf(pid, name string) float64 {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
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

// onDisk returns how much space a file takes: Badger's files are longer than what was
// written to them.
func onDisk(path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512, nil
	}
	return info.Size(), nil
}

// phases are what scale measures, in order.
var phases = []struct {
	name string
	run  func(estate, func(measured)) error
}{{"mint", estate.mint}, {"limit", estate.withLimit}, {"use", estate.use}, {"forget", estate.forget}, {"turnover", estate.turnOver}}

// runScale runs each phase in a process of its own and prints all figures.
func runScale(out io.Writer, keys int) (err error) {
	dir, err := os.MkdirTemp("", "till-scale")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cgroup, remove, err := makeCgroup()
	if err != nil {
		fmt.Fprintf(os.Stderr, "nothing is measured with little memory: %v\n", err)
	} else {
		defer func() { err = errors.Join(err, remove()) }()
	}
	fmt.Fprintf(out, scaleRow, fmt.Sprintf("%d keys", keys), "measured", "goal", "")
	missed := 0
	for _, p := range phases {
		fmt.Fprintf(os.Stderr, "%s\n", p.name)
		cmd := exec.Command(os.Args[0], "-scale", strconv.Itoa(keys), "-scale-phase", p.name, "-scale-dir", dir, "-scale-cgroup", cgroup)
		cmd.Stderr = os.Stderr
		b, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		var figures []measured
		if err := json.Unmarshal(b, &figures); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		missed += printFigures(out, figures)
	}
	if missed > 0 {
		return fmt.Errorf("%d goals were missed", missed)
	}
	return nil
}

func runPhase(out io.Writer, name string, e estate) error {
	for _, p := range phases {
		if p.name == name {
			var figures []measured
			if err := p.run(e, func(f measured) { figures = append(figures, f) }); err != nil {
				return err
			}
			return json.NewEncoder(out).Encode(figures)
		}
	}
	return fmt.Errorf("no phase %q", name)
}

const scaleRow = "%-38s %-15s %-17s %s\n" // 80 columns

// printFigures prints the figures, and returns how many goals were missed.
func printFigures(out io.Writer, figures []measured) (missed int) {
	for _, f := range figures {
		verdict := ""
		if f.goal() != "" {
			if verdict = "met"; !f.met() {
				verdict, missed = "MISSED", missed+1
			}
		}
		fmt.Fprintf(out, scaleRow, f.Name, number(f.Value, f.Unit), f.goal(), verdict)
	}
	return missed
}
