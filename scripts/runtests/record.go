//go:build unix

package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// record is what is known of a run.
type record struct {
	out   io.Writer
	began time.Time

	mu     sync.Mutex
	phases []*phase
	rows   []*row // in the order in which they began
	done   []result
	asked  []string        // alternatives of -run
	heard  map[string]bool // the alternatives that match a test
	failed int             // of all rows
}

type row struct {
	phase                   *phase
	pack                    string
	passed, failed, skipped int
	elapsed                 time.Duration
	ended, cached           bool
	output                  tail             // the package's own output
	tests                   map[string]*test // tests that run, and their subtests
	names                   map[string]bool  // of tests that are no subtests
}

type test struct {
	name     string
	top      *test
	parent   *test
	began    time.Time
	waits    bool // it waits for its turn among parallel tests
	parallel bool // its time is not part of its parent's
	subtests int
	failures int // among its subtests
	beside   time.Duration
	waited   time.Duration // how long it says it waited for others to end
	output   tail
	ended    bool
}

// result is a test that has ended, or was cut off.
type result struct {
	phase, pack, name, action string
	took                      time.Duration // with parallel subtests, each of which is counted once
	why                       string        // it was skipped
	whole                     bool          // it is not a subtest
	counted                   bool
}

func newRecord(out io.Writer, began time.Time, phases []*phase) *record {
	return &record{out: out, began: began, phases: phases, heard: map[string]bool{}}
}

func (rec *record) begin(p *phase) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	p.began = time.Now()
	rec.say("%s begins", p.name)
}

func (rec *record) say(format string, args ...any) {
	fmt.Fprintln(rec.out, cut("["+clock(time.Since(rec.began))+"] "+fmt.Sprintf(format, args...), width))
}

func (rec *record) row(p *phase, pack string) *row {
	for _, r := range slices.Backward(rec.rows) {
		if r.phase == p && r.pack == pack {
			return r
		}
	}
	r := &row{phase: p, pack: pack, tests: map[string]*test{}, names: map[string]bool{}}
	rec.rows = append(rec.rows, r)
	return r
}

func (rec *record) add(p *phase, e event) {
	switch e.Action {
	case "build-output": // go vet's output as well
		fmt.Fprint(rec.out, e.Output)
		return
	case "build-fail":
		return // its package fails
	}
	r := rec.row(p, e.Package)
	if e.Test == "" {
		rec.addPackage(r, e)
		return
	}
	t := r.tests[e.Test]
	if t == nil || e.Action == "run" {
		t = r.start(e)
	}
	switch e.Action {
	case "pause":
		t.waits, t.parallel = true, true
	case "cont":
		t.waits, t.began = false, e.Time
	case "output":
		if !verdict.MatchString(e.Output) {
			t.output.add(e.Output)
		}
		if m := queued.FindStringSubmatch(e.Output); m != nil {
			t.waitedFor(m[1])
		}
	case "pass", "fail", "skip":
		rec.finish(r, t, e.Action, time.Duration(e.Elapsed*float64(time.Second)))
	}
}

// queued matches the output of a test that had to wait for others.
var queued = regexp.MustCompile(`: waited (\S+) for its turn\n?$`)

// waitedFor subtracts the time that a test spent in a queue from its own time and
// from the times that include it.
func (t *test) waitedFor(text string) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return // the test logs something else
	}
	for ; t != nil; t = t.parent {
		if t.waited += d; t.parallel {
			return // the test above does not wait for it
		}
	}
}

func (r *row) start(e event) *test {
	t := &test{name: e.Test, began: e.Time}
	// A subtest's own name may have slashes.
	for name := e.Test; t.parent == nil && strings.Contains(name, "/"); {
		name = name[:strings.LastIndex(name, "/")]
		t.parent = r.tests[name]
	}
	t.top = t
	if t.parent != nil {
		t.top = t.parent.top
		t.parent.subtests++
	} else {
		r.names[t.name] = true
	}
	r.tests[t.name] = t
	return t
}

// finish counts a test that has ended. A test with subtests counts only if it failed
// and none of them did.
func (rec *record) finish(r *row, t *test, action string, took time.Duration) {
	t.ended = true
	took = max(0, took-t.waited)
	if t.parent != nil && t.parallel {
		t.top.beside += took
	}
	counts := t.subtests == 0
	switch action {
	case "pass":
		if counts {
			r.passed++
		}
		if r.phase.says() && t.output.written > 0 {
			rec.show(r, "ok", t.name, took, t.output.String())
		}
	case "skip":
		if counts {
			r.skipped++
		}
	case "fail":
		counts = counts || t.failures == 0
		for above := t.parent; above != nil; above = above.parent {
			above.failures++
		}
		if counts {
			r.failed++
			rec.failed++
		}
		// A test that panics ends its whole process, which says so in the name of the test
		// that all of its subtests belong to.
		if counts || t.output.written > 0 {
			rec.show(r, "FAIL", t.name, took, t.output.String())
		}
	}
	res := result{phase: r.phase.name, pack: r.pack, name: t.name, action: action, took: took + t.beside, whole: t.parent == nil, counted: counts}
	if action == "skip" {
		res.why = reason(t.output.String())
	}
	if t.parent == nil || counts && action != "pass" {
		rec.done = append(rec.done, res)
	}
	t.output = tail{}
	if t.parent == nil {
		maps.DeleteFunc(r.tests, func(_ string, other *test) bool { return other.top == t })
	}
}

// verdict matches output that repeats an event.
var verdict = regexp.MustCompile(`^(=== |\s*--- (PASS|FAIL|SKIP): )`)

// noise matches output of a package that the table repeats.
var noise = regexp.MustCompile(`^(=== |PASS$|FAIL$|ok  \t|FAIL\t|exit status \d+$|\?   \t|testing: warning)`)

func (rec *record) addPackage(r *row, e event) {
	switch e.Action {
	case "output":
		r.cached = r.cached || strings.HasPrefix(e.Output, "ok  \t") && strings.Contains(e.Output, "\t(cached)")
		if !noise.MatchString(strings.TrimSuffix(e.Output, "\n")) {
			r.output.add(e.Output)
		}
	case "pass", "fail", "skip":
		r.ended, r.elapsed = true, time.Duration(e.Elapsed*float64(time.Second))
		if e.Action != "fail" {
			return
		}
		for _, t := range sorted(r.tests) {
			if !t.ended && !t.waits && t.subtests == 0 {
				t.output.add("(it did not end)\n")
				rec.finish(r, t, "fail", e.Time.Sub(t.began))
			}
		}
		if r.failed == 0 || r.output.written > 0 {
			name := "(the package itself)"
			if e.FailedBuild != "" {
				r.output.add("it does not build; see above\n")
			}
			if r.failed == 0 {
				r.failed++
				rec.failed++
				rec.done = append(rec.done, result{phase: r.phase.name, pack: r.pack, name: name, action: "fail", counted: true})
			}
			rec.show(r, "FAIL", name, r.elapsed, r.output.String())
		}
	}
}

func sorted(tests map[string]*test) []*test {
	return slices.SortedFunc(maps.Values(tests), func(a, b *test) int {
		if c := a.began.Compare(b.began); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
}

func (rec *record) show(r *row, how, name string, took time.Duration, text string) {
	fmt.Fprintf(rec.out, "\n--- %s: %s %s (%s)\n", how, short(r.pack), name, seconds(took))
	shown, err := excerpt(text, r.phase.name+" "+short(r.pack)+" "+name)
	if err != nil {
		fmt.Fprintln(rec.out, err)
	}
	fmt.Fprintln(rec.out, shown)
}

// progress reports where the running phases are.
func (rec *record) progress(now time.Time) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, p := range rec.phases {
		if !p.began.IsZero() && p.took == 0 {
			rec.progressOf(p, now)
		}
	}
}

func (rec *record) progressOf(p *phase, now time.Time) {
	var passed, failed, done int
	var longest *test
	others := -1
	for _, r := range rec.rows {
		if r.phase != p {
			continue
		}
		passed, failed = passed+r.passed, failed+r.failed
		if r.ended {
			done++
			continue
		}
		for _, t := range r.tests {
			if t.ended || t.waits || t.subtests > 0 {
				continue
			}
			others++
			if longest == nil || t.began.Before(longest.began) {
				longest = t
			}
		}
	}
	text := fmt.Sprintf("%s: %d passed, %d failed, %d packages done", p.name, passed, failed, done)
	if longest == nil {
		rec.say("%s; building", text)
		return
	}
	rec.say("%s", text)
	more := ""
	if others > 0 {
		more = fmt.Sprintf(" and %d more", others)
	}
	fmt.Fprintf(rec.out, "        %s in %s%s\n", clock(now.Sub(longest.began)), cut(longest.name, width-30), more)
}

// end closes a phase whose command has ended, and reports what it left running.
func (rec *record) end(p *phase, ended error, computed time.Duration, left []string) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	p.took, p.computed = time.Since(p.began), computed
	var passed, failed, skipped int
	names := map[string]bool{}
	for _, r := range rec.rows {
		if r.phase == p {
			passed, failed, skipped = passed+r.passed, failed+r.failed, skipped+r.skipped
			maps.Copy(names, r.names)
		}
	}
	fault := ""
	if ended != nil && failed == 0 {
		fault = "go test: " + ended.Error() + "; see above"
	} else if len(names) == 0 && failed == 0 {
		fault = "no test ran"
	}
	if fault != "" {
		failed++
		rec.failed++
		rec.rows = append(rec.rows, &row{phase: p, pack: "", failed: 1, ended: true})
		rec.done = append(rec.done, result{phase: p.name, name: fault, action: "fail", counted: true})
		fmt.Fprintf(rec.out, "\n--- FAIL: %s: %s\n", p.name, fault)
	}
	for _, pattern := range p.patterns() {
		rec.asked = append(rec.asked, pattern)
		re, err := regexp.Compile(pattern) // go test has reported an invalid pattern
		rec.heard[pattern] = rec.heard[pattern] || err == nil && slices.ContainsFunc(slices.Collect(maps.Keys(names)), re.MatchString)
	}
	rec.say("%s: %d passed, %d failed, %d skipped", p.name, passed, failed, skipped)
	for _, name := range left {
		rec.say("%s left a process running: %s", p.name, name)
	}
}

var place = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		if text := strings.TrimSpace(place.ReplaceAllString(line, "")); text != "" {
			said = append(said, text)
		}
	}
	return strings.Join(said, " ")
}
