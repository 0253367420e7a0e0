//go:build unix

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// asMain makes this test binary the program.
const asMain = "TILL_TEST_AS_RUNTESTS"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// runner is the program, about to run tests of testdata/module.
type runner struct {
	*exec.Cmd
	t    *testing.T
	tell string // where tests report what they have
	temp string // what the program takes for the system's

	mu  sync.Mutex
	out bytes.Buffer
}

func (r *runner) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(b)
}

func newRunner(t *testing.T, args ...string) *runner {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	module := t.TempDir() // kept files go there
	if err := os.CopyFS(module, os.DirFS("testdata/module")); err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, tell: t.TempDir(), temp: t.TempDir(), Cmd: exec.Command(self, args...)}
	r.Dir, r.Stdout, r.Stderr = module, r, r
	r.Env = append(os.Environ(), asMain+"=1", "TELL="+r.tell, "TMPDIR="+r.temp)
	return r
}

// ends runs it to its end.
func (r *runner) ends(code int) string {
	r.t.Helper()
	err := r.Run()
	return r.ended(err, code)
}

func (r *runner) ended(err error, code int) string {
	r.t.Helper()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	if got := r.ProcessState.ExitCode(); got != code {
		r.t.Errorf("exit code %d, want %d", got, code)
	}
	if left, err := os.ReadDir(r.temp); err != nil || len(left) > 0 {
		r.t.Errorf("it leaves %v %v", left, err)
	}
	r.t.Log(r.out.String())
	return r.out.String()
}

// reported waits until a test has reported something.
func (r *runner) reported(name string) string {
	r.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * time.Minute); ; {
		if b, err := os.ReadFile(filepath.Join(r.tell, name)); err == nil {
			return strings.TrimSpace(string(b))
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("nothing reported %s:\n%s", name, r.out.String())
		}
	}
}

// nothingIsLeft checks what a test of package leak had.
func (r *runner) nothingIsLeft() {
	r.t.Helper()
	for _, name := range []string{"disk", "memory"} {
		dir := r.reported(name)
		if dir == "" {
			continue // no such memory on this system
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			r.t.Errorf("%s is still there: %v", dir, err)
		}
	}
	pid, err := strconv.Atoi(r.reported("pid"))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); runtime.GOOS == "linux" && !errors.Is(err, syscall.ESRCH) && !dead(pid) {
		r.t.Errorf("process %d is still there: %v", pid, err)
	}
}

// dead are zombies: processes that have ended and were not reaped.
func dead(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestAReportTellsWhatRanWhatWasSkippedAndWhatFailed(t *testing.T) {
	t.Parallel()
	out := newRunner(t, "+first", "-timeout", "5m", "-run", "One|Many|Skipped|Nobody", "./good", "+second", "A=b", "-timeout", "5m", "./bad", "./broken").ends(1)
	for _, want := range []string{
		`(?m)^first +good +3 +0 +2 `,
		`(?m)^second +bad +3 +2 +0 `,
		`(?m)^second +broken +0 +1 +0 `,
		`(?m)^  first good TestMany/d\n      there is no d$`,
		`(?m)^  first good TestSkipped\n      not asked for: set X=1$`,
		`--- FAIL: bad TestFails/not \(`,
		`seven is not eight`,
		`its subtests are well`,
		`undefined: thisIsNotDeclared`,
		`(?m)^no test is named Nobody$`,
		`(?m)^6 passed, 3 failed, 2 skipped\nFAIL after  \d:\d\d\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("missing: %s", want)
		}
	}
	for line := range strings.Lines(out[strings.Index(out, "phase  "):]) {
		if utf8.RuneCountInString(line) > width+1 {
			t.Errorf("a wide line: %s", line)
		}
	}
}

func TestOnlyARunWithoutFailureIsOk(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"+a", "-timeout", "5m", "./good"}, 0, "3 passed, 0 failed, 2 skipped\nok after "},
		{[]string{"+a", "-timeout", "5m", "-run", "Nobody", "./good"}, 1, "no test ran"},
		{[]string{"+a", "-timeout", "5m", "./nowhere"}, 1, "1 failed"},
		{[]string{"+a", "-timeout", "5m", "-run", "Passes", "./bad"}, 0, "1 passed, 0 failed, 0 skipped\nok after "},
		{[]string{"+a", "-timeout", "5m", "-v", "./said"}, 0, "--- ok: said TestSays (0.0 s)\n    said_test.go:5: 7 of 7\n"},
		{[]string{"+a", "./good"}, 2, "no -timeout"},
		{[]string{"./good"}, 2, "begins with +NAME"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Parallel()
			if out := newRunner(t, test.args...).ends(test.code); !strings.Contains(out, test.says) {
				t.Errorf("it does not say %q", test.says)
			}
		})
	}
}

func TestAHangShowsWhereAndKeepsAllStacks(t *testing.T) {
	t.Parallel()
	var r *runner
	var out, timeout string
	for limit := time.Second; ; limit *= 4 { // a busy machine may not have come to the hang in time
		timeout = limit.String()
		r = newRunner(t, "+stuck", "-timeout", timeout, "./hang")
		out = r.ends(1)
		if _, err := os.Stat(filepath.Join(r.tell, "hangs")); err == nil || limit > time.Minute {
			break
		}
	}
	for _, want := range []string{"on its way", "panic: test timed out after " + timeout, "waitForNobody", "0 passed, 1 failed, 0 skipped"} {
		if !strings.Contains(out, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(out, "testing.tRunner") || strings.Contains(out, "itself") {
		t.Error("it shows stacks of the testing package")
	}
	_, file, _ := strings.Cut(out, "all of it is in ")
	file, _, _ = strings.Cut(file, "\n")
	if b, err := os.ReadFile(filepath.Join(r.Dir, file)); err != nil || !strings.Contains(string(b), "testing.tRunner") {
		t.Errorf("the file it names: %v %s", err, b)
	}
}

func TestAFailedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRunner(t, "+leak", "-timeout", "5m", "-run", "TestLeaksAndFails", "./leak")
	out := r.ends(1)
	if runtime.GOOS == "linux" && !strings.Contains(out, "leak left a process running: ") {
		t.Error("it does not tell of the process")
	}
	r.nothingIsLeft()
}

// TestARunWithinATestOfAnotherHasItsFilesThere, so that they go when both are killed.
func TestARunWithinATestOfAnotherHasItsFilesThere(t *testing.T) {
	t.Parallel()
	r, memory := newRunner(t, "+leak", "-timeout", "5m", "-run", "TestLeaksAndFails", "./leak"), t.TempDir()
	r.Env = append(r.Env, memoryVariable+"="+memory)
	r.ends(1)
	if dir := r.reported("memory"); !strings.HasPrefix(dir, memory) {
		t.Errorf("it keeps %s, outside of %s", dir, memory)
	}
	r.nothingIsLeft()
}

// TestPhasesRunBesideEachOther has two phases that wait for each other. The second
// begins when one beside the first has ended, whose left process is not the first's.
func TestPhasesRunBesideEachOther(t *testing.T) {
	t.Parallel()
	r := newRunner(t, "+leak", "-timeout", "5m", "-run", "TestLeaksAndFails", "./leak", "+then", "ME=then", "OTHER=beside", "-timeout", "5m", "./meets",
		"++", "+beside", "ME=beside", "OTHER=then", "-timeout", "5m", "./meets")
	out := r.ends(1)
	for _, want := range []string{`(?m)^leak +leak +0 +1 +0 .*\nthen +meets +1 +0 +0 .*\nbeside +meets +1 +0 +0 `, `(?m)^beside +\d+\.\d +\d+\.\d$`, `(?m)^2 passed, 1 failed, 0 skipped$`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(out, "then left a process") || strings.Contains(out, "beside left a process") {
		t.Error("a process passes for another phase's")
	}
	r.nothingIsLeft()
}

func TestAnInterruptedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			r := newRunner(t, "+leak", "-timeout", "5m", "-run", "TestLeaksAndWaits", "./leak", "+never", "-timeout", "5m", "./good",
				"++", "+beside", "ME=beside", "OTHER=nobody", "-timeout", "5m", "./meets")
			if err := r.Start(); err != nil {
				t.Fatal(err)
			}
			r.reported("pid")
			r.reported("beside")
			if err := r.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			out := r.ended(r.Wait(), 130)
			if _, err := os.Stat(filepath.Join(r.tell, "cleaned")); runtime.GOOS == "linux" && err != nil {
				t.Errorf("PostgreSQL was killed: %v", err)
			}
			if !strings.Contains(out, "cut off") || !strings.Contains(out, "FAIL, interrupted,") || strings.Contains(out, "never") {
				t.Error("it does not tell that it was interrupted")
			}
			r.nothingIsLeft()
		})
	}
}

// TestARunEndsWithItsParent: `go run` that is killed leaves its program an orphan.
func TestARunEndsWithItsParent(t *testing.T) {
	t.Parallel()
	r := newRunner(t, "+leak", "-timeout", "5m", "-run", "TestLeaksAndWaits", "./leak")
	r.Args = append([]string{"/bin/sh", "-c", `"$@" & wait`, "sh", r.Path}, r.Args[1:]...)
	r.Path = "/bin/sh"
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	r.reported("pid")
	if err := r.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.ended(r.Wait(), -1) // when the last process with its output has ended
	r.nothingIsLeft()
}
