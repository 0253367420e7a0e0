//go:build unix

package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// width is the width of a terminal of the default size.
const width = 80

const slowest = 10

func (rec *record) report(interrupted bool, took time.Duration) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var passed, failed, skipped int
	fmt.Fprintf(rec.out, "\n%-10s %-28s %7s %7s %7s %8s\n", "phase", "package", "passed", "failed", "skipped", "seconds")
	for _, r := range slices.SortedStableFunc(slices.Values(rec.rows), rec.byPhase) {
		if r.passed+r.failed+r.skipped == 0 && r.ended {
			continue // it has no tests
		}
		passed, failed, skipped = passed+r.passed, failed+r.failed, skipped+r.skipped
		took := fmt.Sprintf("%.1f", r.elapsed.Seconds())
		switch {
		case !r.ended:
			took = "cut off"
		case r.cached:
			took = "cached"
		}
		fmt.Fprintf(rec.out, "%-10s %-28s %7d %7d %7d %8s\n", cut(r.phase.name, 10), cut(short(r.pack), 28), r.passed, r.failed, r.skipped, took)
	}
	fmt.Fprintf(rec.out, "\n%-10s %8s %17s\n", "phase", "seconds", "processor seconds")
	for _, p := range rec.phases {
		if p.took > 0 {
			fmt.Fprintf(rec.out, "%-10s %8.1f %17.1f\n", cut(p.name, 10), p.took.Seconds(), p.computed.Seconds())
		}
	}
	rec.list("\nskipped", "skip")
	rec.listSlowest()
	rec.list("\nfailed", "fail")
	for i, pattern := range rec.asked {
		if !rec.heard[pattern] && !slices.Contains(rec.asked[:i], pattern) {
			fmt.Fprintf(rec.out, "\nno test is named %s\n", pattern)
		}
	}
	fmt.Fprintf(rec.out, "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	verdict := "ok"
	switch {
	case interrupted:
		verdict = "FAIL, interrupted,"
	case rec.failed > 0:
		verdict = "FAIL"
	}
	fmt.Fprintf(rec.out, "%s after %s\n", verdict, clock(took))
}

// byPhase keeps the rows of a phase together: others may run beside it.
func (rec *record) byPhase(a, b *row) int {
	return cmp.Compare(slices.Index(rec.phases, a.phase), slices.Index(rec.phases, b.phase))
}

// list names the tests that ended in one way, each once.
func (rec *record) list(title, action string) {
	seen := map[string]bool{}
	for _, res := range rec.done {
		key := res.pack + " " + res.name
		if res.action != action || !res.counted || seen[key] {
			continue
		}
		if len(seen) == 0 {
			fmt.Fprintln(rec.out, title)
		}
		seen[key] = true
		fmt.Fprintf(rec.out, "  %s\n", cut(res.phase+" "+short(res.pack)+" "+res.name, width-2))
		why := res.why
		if action == "skip" {
			why = cmp.Or(why, "it does not say why")
			if i := slices.IndexFunc(rec.done, func(other result) bool {
				return other.pack == res.pack && other.name == res.name && other.action != "skip"
			}); i >= 0 {
				why += " (it ran in " + rec.done[i].phase + ")"
			}
		}
		for _, line := range wrap(why, width-6) {
			fmt.Fprintf(rec.out, "      %s\n", line)
		}
	}
}

// listSlowest names no subtests, so that no time counts twice.
func (rec *record) listSlowest() {
	tests := slices.DeleteFunc(slices.Clone(rec.done), func(res result) bool { return !res.whole || res.took < 10*time.Millisecond })
	slices.SortStableFunc(tests, func(a, b result) int { return cmp.Compare(b.took, a.took) })
	for i, res := range tests[:min(slowest, len(tests))] {
		if i == 0 {
			fmt.Fprintln(rec.out, "\nslowest, in seconds, with their subtests")
		}
		fmt.Fprintf(rec.out, "%8.1f  %s\n", res.took.Seconds(), cut(res.phase+" "+short(res.pack)+" "+res.name, width-10))
	}
}

// short returns a package's path in its module, if that is known.
func short(pack string) string {
	parts := strings.Split(pack, "/")
	if len(parts) <= 3 {
		return path.Base(pack)
	}
	return path.Join(parts[3:]...)
}

func cut(text string, columns int) string {
	if utf8.RuneCountInString(text) <= columns {
		return text
	}
	return string([]rune(text)[:columns-1]) + "…"
}

// wrap breaks a text into lines, at most four of them.
func wrap(text string, columns int) []string {
	var lines []string
	for word := range strings.FieldsSeq(text) {
		if last := len(lines) - 1; last >= 0 && utf8.RuneCountInString(lines[last])+1+utf8.RuneCountInString(word) <= columns {
			lines[last] += " " + word
			continue
		}
		if len(lines) == 4 {
			lines[3] = cut(lines[3]+" …", columns)
			break
		}
		lines = append(lines, cut(word, columns))
	}
	return lines
}

func clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%2d:%02d", s/60, s%60)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
