package admin

import (
	"cmp"
	"slices"
	"time"
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

// File is what of a configuration stands in files, which are looked at while the
// server runs: a secret, or prices.
type File struct {
	// What they hold, such as "the credential of upstream openai".
	What  string   `json:"subject"`
	Paths []string `json:"read_from"`
	// ReadAt is when it was last looked at.
	ReadAt time.Time `json:"checked_at"`
	// ChangedAt is when something else than before came into force; nil: not
	// since this configuration was loaded.
	ChangedAt *time.Time `json:"changed_at,omitempty"`
	// Trouble is why the files as they are now are not in force; empty: they are.
	Trouble string `json:"not_taken,omitempty"`
}

// diagnosis is the answer to `doctor`.
type diagnosis struct {
	Findings []Finding `json:"findings"`
	Files    []File    `json:"files,omitempty"`
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
