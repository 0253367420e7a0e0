//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// recordOf returns a record after the given events: "seconds action test elapsed".
func recordOf(out *bytes.Buffer, events ...string) *record {
	p := &phase{name: "unit"}
	rec := newRecord(out, noon, []*phase{p})
	rec.begin(p)
	for _, text := range events {
		var at int
		e := event{Package: "example.com/a/module/pack"}
		if _, err := fmt.Sscan(text, &at, &e.Action, &e.Test, &e.Elapsed); err != nil {
			panic(err)
		}
		e.Time = noon.Add(time.Duration(at) * time.Second)
		e.Test = strings.TrimPrefix(e.Test, "-")
		rec.add(p, e)
	}
	return rec
}

func TestTheSlowestAreWholeTestsWithParallelSubtestsOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rec := recordOf(&out,
		"0 run TestA 0", "0 run TestA/x 0", "5 pass TestA/x 5", "5 run TestA/y/z 0", "8 pass TestA/y/z 3", "9 pass TestA 9",
		"9 run TestB 0", "9 run TestB/x 0", "9 pause TestB/x 0", "9 run TestB/y 0", "9 pause TestB/y 0",
		"10 cont TestB/x 0", "10 cont TestB/y 0", "17 pass TestB/x 7", "17 pass TestB/y 7", "17 pass TestB 1",
		"17 run TestC 0", "17 pause TestC 0", "20 cont TestC 0", "22 pass TestC 2", "22 pass - 22",
	)
	rec.listSlowest()
	if !strings.Contains(out.String(), "    15.0  unit pack TestB\n     9.0  unit pack TestA\n     2.0  unit pack TestC\n") {
		t.Error(out.String())
	}
	if r := rec.rows[0]; r.passed != 5 || len(r.tests) != 0 {
		t.Errorf("%d passed, and %v are still known", r.passed, r.tests)
	}
}

func TestWaitingForATurnIsNotInATestsTime(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rec := recordOf(&out, "0 run TestA 0", "0 run TestB 0", "0 run TestB/x 0", "1 pause TestB/x 0", "1 cont TestB/x 0")
	for _, name := range []string{"TestA", "TestB/x"} {
		rec.add(rec.phases[0], event{Action: "output", Package: "example.com/a/module/pack", Test: name, Output: "    weight_test.go:62: waited 8.5s for its turn\n"})
	}
	for _, e := range []event{{Test: "TestA", Elapsed: 10}, {Test: "TestB/x", Elapsed: 11}, {Test: "TestB", Elapsed: 1}} {
		e.Action, e.Package = "pass", "example.com/a/module/pack"
		rec.add(rec.phases[0], e)
	}
	rec.listSlowest()
	if !strings.Contains(out.String(), "     3.5  unit pack TestB\n     1.5  unit pack TestA\n") {
		t.Error(out.String())
	}
}

func TestProgressTellsWhatRunsAndNotWhatWaits(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rec := recordOf(&out, "0 run TestA 0", "0 pause TestA 0", "1 run TestB 0", "1 run TestB/x 0", "30 run TestC 0", "50 cont TestA 0", "55 pass TestC 25")
	out.Reset()
	rec.progress(noon.Add(91 * time.Second))
	if got := out.String(); !strings.Contains(got, "unit: 1 passed, 0 failed, 0 packages done\n") || !strings.Contains(got, " 1:30 in TestB/x and 1 more\n") {
		t.Error(got)
	}
}

func TestWhatRanWhenItsPackageFailedHasFailed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rec := recordOf(&out, "0 run TestA 0", "0 run TestA/x 0", "0 run TestB 0", "0 pause TestB 0", "9 fail - 9")
	if r := rec.rows[0]; r.failed != 1 || !strings.Contains(out.String(), "--- FAIL: pack TestA/x (9.0 s)") {
		t.Errorf("%d failed: %s", r.failed, out.String())
	}
}

func TestAPanicOfASubtestIsShown(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rec := recordOf(&out, "0 run TestA 0", "0 run TestA/x 0", "2 fail TestA/x 2")
	rec.add(rec.phases[0], event{Action: "output", Package: "example.com/a/module/pack", Test: "TestA", Output: "panic: it has no map\n"})
	rec.add(rec.phases[0], event{Action: "fail", Package: "example.com/a/module/pack", Test: "TestA", Elapsed: 2})
	if r := rec.rows[0]; r.failed != 1 || !strings.Contains(out.String(), "panic: it has no map\n") {
		t.Errorf("%d failed: %s", r.failed, out.String())
	}
}

func TestARepeatedTestCountsEachTime(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	rec := recordOf(&out, "0 run TestA 0", "0 fail TestA 0", "0 run TestA 0", "0 pass TestA 0", "1 fail - 1")
	if r := rec.rows[0]; r.passed != 1 || r.failed != 1 {
		t.Errorf("%d passed, %d failed", r.passed, r.failed)
	}
}

func TestArgumentsBecomePhases(t *testing.T) {
	t.Parallel()
	streams, err := parse([]string{"+a", "A=1", "B_C=2", "-timeout", "1m", "D=3", "+b", "-timeout=2m", "-run", "X|Y", "++", "+c", "-timeout=3m"})
	if err != nil || len(streams) != 2 || len(streams[0]) != 2 || len(streams[1]) != 1 {
		t.Fatalf("%v %v", streams, err)
	}
	a, b := streams[0][0], streams[0][1]
	if !slices.Equal(a.env, []string{"A=1", "B_C=2"}) || !slices.Equal(a.args, []string{"-timeout", "1m", "D=3"}) || !slices.Equal(b.patterns(), []string{"X", "Y"}) {
		t.Errorf("%v %v", a, b)
	}
}

func TestLongOutputIsKeptWholeAndShownInPart(t *testing.T) {
	t.Chdir(t.TempDir())
	text := strings.Repeat("begins\n", maxLines) + "middle\n" + strings.Repeat("ends\n", maxLines)
	got, err := excerpt(text, "unit pack TestA/x y")
	if err != nil || strings.Contains(got, "middle") || strings.Count(got, "begins\n") != maxLines/2 || strings.Count(got, "ends\n") != maxLines/2 {
		t.Errorf("%v %s", err, got)
	}
	_, file, _ := strings.Cut(got, "all of it is in ")
	if b, err := os.ReadFile(file); err != nil || string(b) != text {
		t.Errorf("%s: %v %s", file, err, b)
	}
}

func TestOutputWithoutEndKeepsItsEnd(t *testing.T) {
	t.Parallel()
	var text tail
	for i := range 3 * maxOutput / 8 {
		text.add(fmt.Sprintf("%07d\n", i))
	}
	if got := text.String(); len(text.kept) > 2*maxOutput || !strings.HasPrefix(got, "(") || !strings.HasSuffix(got, fmt.Sprintf("%07d\n", 3*maxOutput/8-1)) {
		t.Errorf("its end is lost: %.80s", got)
	}
}
