package limiter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
)

// read follows the pages of a list.
func (w *world) read(by limiter.Caller, f audit.Filter) (seqs []string, lines []string) {
	w.t.Helper()
	for {
		page, err := w.Audit(ctx, by, f)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, line := range page.Entries {
			e, err := limiter.ParseAuditLine(line)
			if err != nil {
				w.t.Fatal(err)
			}
			seqs, lines = append(seqs, string(e["seq"].(interface{ String() string }).String())), append(lines, string(line))
		}
		if page.Next == "" {
			return seqs, lines
		}
		f.Cursor = page.Next
	}
}

func TestTheAuditLogIsListedByActorActionKeyAndTime(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	_, lena := w.hire(limiter.Operator, "lena", "lead") // 1
	k := w.mint(activations(5))                         // 2
	w.clock.advance(time.Hour)
	later := w.clock.time()
	mine, err := w.Mint(lena, &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits()}, limiter.Birth{Lookup: [32]byte{7}}) // 3
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Suspend(limiter.Operator, k.id); err != nil { // 4
		t.Fatal(err)
	}
	if _, err := w.Suspend(lena, mine.ID); err != nil { // 5
		t.Fatal(err)
	}
	for want, f := range map[string]audit.Filter{
		"1 2 3 4 5": {},
		"5 4 3 2 1": {Newest: true},
		"3 4 5":     {Since: later},
		"4 5":       {From: 4, Since: later},
		"2 4":       {Key: k.id},
		"3 5":       {Actor: "lena"},
		"4":         {Action: audit.ActKeySuspend, Actor: "operator"},
		"":          {Since: later.Add(time.Hour)},
	} {
		for _, size := range []int{1, 2, 500} {
			f.Limit = size
			seqs, _ := w.read(limiter.Operator, f)
			if got := strings.Join(seqs, " "); got != want {
				t.Errorf("%+v: %q, want %q", f, got, want)
			}
		}
	}
	var wrong *record.InvalidError
	for _, f := range []audit.Filter{{Limit: 501}, {Limit: -1}, {Cursor: "x"}} {
		if _, err := w.Audit(ctx, limiter.Operator, f); !errors.As(err, &wrong) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// newTeamWithReader is a team with a role that may read what it is shown of the audit log.
func newTeamWithReader(t *testing.T) *world {
	t.Helper()
	w := newTeam(t)
	reader := record.NewRole()
	reader.Permissions = []record.Permission{record.AuditRead, record.KeysCreate}
	w.roles["reader"] = reader
	if err := w.SetRoles(w.roles); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestTheAuditLogIsShownWithinOnesSight(t *testing.T) {
	t.Parallel()
	w := newTeamWithReader(t)
	_, rita := w.hire(limiter.Operator, "rita", "reader")                                                                                              // 1: about her own token
	_, ada := w.hire(limiter.Operator, "ada", "auditor")                                                                                               // 2
	_, lena := w.hire(limiter.Operator, "lena", "lead")                                                                                                // 3
	foreign := w.mint(activations(1))                                                                                                                  // 4
	_, err := w.Mint(rita, &record.Key{Upstream: "openai", Custody: "held", Limit: record.Amounts{1, -1, -1, -1}}, limiter.Birth{Lookup: [32]byte{7}}) // 5
	if err != nil {
		t.Fatal(err)
	}
	if seqs, _ := w.read(rita, audit.Filter{}); strings.Join(seqs, " ") != "1 5" {
		t.Errorf("who sees own keys is shown %v, want 1 and 5", seqs)
	}
	if seqs, _ := w.read(rita, audit.Filter{Key: foreign.id}); len(seqs) != 0 {
		t.Errorf("of a foreign key: %v", seqs)
	}
	if seqs, _ := w.read(ada, audit.Filter{}); len(seqs) != 5 {
		t.Errorf("who sees all is shown %v", seqs)
	}
	if _, err := w.Audit(ctx, lena, audit.Filter{}); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("without audit:read: %v", err)
	}
	if err := w.ExportAudit(ctx, rita, func([]byte) error { return nil }); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("an export for who sees own keys: %v", err)
	}
	if err := w.Ping(ctx); err != nil { // those who were refused are in the log
		t.Fatal(err)
	}
	var lines []string
	if err := w.ExportAudit(ctx, ada, func(line []byte) error { lines = append(lines, string(line)); return nil }); err != nil || !slices.Equal(lines, w.auditLines()) {
		t.Errorf("%v, %d lines", err, len(lines))
	}
}

// TestAFreedNameGivesNoSightOfWhatItsFormerHolderDid: 90 days after a token's end its name
// is free, and whoever gets it is somebody else.
func TestAFreedNameGivesNoSightOfWhatItsFormerHolderDid(t *testing.T) {
	t.Parallel()
	w := newTeamWithReader(t)
	mint := func(by limiter.Caller, lookup byte) string {
		t.Helper()
		v, err := w.Mint(by, &record.Key{Upstream: "openai", Custody: "held", Limit: record.Amounts{1, -1, -1, -1}}, limiter.Birth{Lookup: [32]byte{lookup}})
		if err != nil {
			t.Fatal(err)
		}
		return v.ID
	}
	_, former := w.hire(limiter.Operator, "rita", "reader")
	mint(former, 7)
	if _, err := w.RevokeToken(limiter.Operator, former.Token); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(91 * 24 * time.Hour)
	_, rita := w.hire(limiter.Operator, "rita", "reader")
	own := mint(rita, 8)
	page, err := w.Audit(ctx, rita, audit.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var about []string
	for _, line := range page.Entries {
		e, err := audit.ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		about = append(about, e.Text("key"))
	}
	if want := []string{rita.Token, own}; !slices.Equal(about, want) {
		t.Errorf("she reads entries about %v, want %v", about, want)
	}
}

// TestAnExportIsWholeOrFails: it takes as long as its reader does, and the log goes on.
func TestAnExportIsWholeOrFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.MintMany(1500, func(int, *record.Key) {})
	want := w.auditLines()
	var lines []string
	meanwhile := func(do func()) error {
		lines = nil
		return w.ExportAudit(ctx, limiter.Operator, func(line []byte) error {
			if lines = append(lines, string(line)); len(lines) == 1 {
				do()
			}
			return nil
		})
	}
	if err := meanwhile(func() { w.mint(activations(1)) }); err != nil || !slices.Equal(lines, want) {
		t.Errorf("%d lines of %d, %v", len(lines), len(want), err)
	}
	err := meanwhile(func() {
		w.KeepAudit(24 * time.Hour)
		w.clock.advance(10 * 24 * time.Hour)
		if err := w.PruneAudit(); err != nil {
			t.Fatal(err)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "export it again") {
		t.Errorf("pruned meanwhile: %d lines, %v", len(lines), err)
	}
}

func TestAPrunedAuditLogCanBeVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		for range 5 {
			w.mint(activations(1))
		}
		w.clock.advance(24 * time.Hour)
	}
	if err := w.PruneAudit(); err != nil || len(w.auditLines()) != 15 {
		t.Errorf("kept for ever: %v, %d entries", err, len(w.auditLines()))
	}
	for _, test := range []struct {
		keep           time.Duration
		entries, first int
	}{{60 * time.Hour, 11, 6}, {36 * time.Hour, 7, 11}, {time.Hour, 3, 16}, {time.Hour, 3, 16}} {
		w.KeepAudit(test.keep)
		if err := w.PruneAudit(); err != nil {
			t.Fatal(err)
		}
		for _, again := range []bool{false, true} {
			if again {
				w.restart()
			}
			v, err := w.AuditVerify(ctx, limiter.Operator)
			if err != nil || int(v.Entries) != test.entries || int(v.First) != test.first {
				t.Errorf("kept %s: %+v, %v; want %d entries from %d", test.keep, v, err, test.entries, test.first)
			}
			_, head, err := w.AuditHead()
			if err != nil {
				t.Fatal(err)
			}
			lines := w.auditLines()
			if v, err := audit.Verify(strings.NewReader(strings.Join(lines, "\n")+"\n"), &head); err != nil || int(v.First) != test.first {
				t.Errorf("an export: %+v, %v", v, err)
			}
			var broken *audit.BrokenError
			if _, err := audit.Verify(strings.NewReader(strings.Join(lines[1:], "\n")+"\n"), &head); !errors.As(err, &broken) {
				t.Errorf("an export without its first line: %v", err)
			}
		}
		w.clock.advance(time.Minute)
	}
}
