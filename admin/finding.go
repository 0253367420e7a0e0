package admin

import (
	"cmp"
	"slices"
)

// Level says how bad a finding is.
type Level string

// The levels. An error is a promise that does not hold, or a secret that others
// can read; a warning is a risk that may have been taken knowingly.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
)

// Finding is something about a server that a careful operator would change.
type Finding struct {
	// Check names the kind of finding; see the table in docs/command-line.md.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// What says what is wrong, with figures and names; no secret.
	What string `json:"what"`
	// Fix is a command or a line of configuration that mends it.
	Fix string `json:"fix"`
}

// diagnosis is the answer to `doctor`.
type diagnosis struct {
	Findings []Finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

// newDiagnosis puts errors first, and the kinds together.
func newDiagnosis(findings []Finding) diagnosis {
	d := diagnosis{Findings: append([]Finding{}, findings...)}
	slices.SortStableFunc(d.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Check, b.Check)) // "error" before "warning"
	})
	for _, f := range findings {
		if f.Level == LevelError {
			d.Errors++
		} else {
			d.Warnings++
		}
	}
	return d
}
