package main

import (
	"strings"
	"testing"
)

// TestScaleMeasuresEveryGoalOnASmallStore runs the phases up to those that wait for
// the sweeper, and checks only what a busy machine cannot distort.
func TestScaleMeasuresEveryGoalOnASmallStore(t *testing.T) {
	t.Parallel()
	e := estate{t.TempDir(), 300, ""}
	var all []measured
	for _, p := range phases[:3] {
		if err := p.run(e, func(m measured) { all = append(all, m) }); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
	}
	goals := 0
	for _, m := range all {
		if m.goal() != "" {
			goals++
		}
		if m.Value < 0 {
			t.Errorf("%s: %v", m.Name, m.Value)
		}
	}
	if goals < 15 {
		t.Errorf("%d figures with a goal: %v", goals, all)
	}
	var out strings.Builder
	missed := []measured{{Name: "x", Value: 2, Unit: "ms", Most: 1}, {Name: "y", Value: 2, Unit: "a second", Least: 1}}
	if n := printFigures(&out, missed); n != 1 || !strings.Contains(out.String(), "MISSED") || !strings.Contains(out.String(), "met") {
		t.Errorf("%d\n%s", n, out.String())
	}
}
