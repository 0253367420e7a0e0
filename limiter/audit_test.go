package limiter_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// entries are the lines of the audit log as the store has them.
func (w *world) auditLines() []string {
	w.t.Helper()
	lines, err := w.AuditLines()
	if err != nil {
		w.t.Fatal(err)
	}
	return lines
}

// acts are the actions in the log on a key, in order.
func (w *world) acts(id string) string {
	w.t.Helper()
	var acts []string
	for _, line := range w.auditLines() {
		e, err := limiter.ParseAuditLine([]byte(line))
		if err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		if e["key"] == id {
			acts = append(acts, e["action"].(string))
		}
	}
	return strings.Join(acts, " ")
}

func TestEveryActAndEveryEndIsInTheAuditLogOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(2))
	by := limiter.Operator.At("192.0.2.7")
	if _, err := w.Change(ctx, by, k.id, 0, func(key *record.Key) error { key.Name = "nightly"; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Change(ctx, by, k.id, 0, func(key *record.Key) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Suspend(by, k.id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Resume(by, k.id); err != nil {
		t.Fatal(err)
	}
	k.drain(record.CodeActivationsExhausted)
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.GrantMore(ctx, by, k.id, limiter.More{Activations: 1}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := w.Revoke(ctx, by, k.id, "the contractor left"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Forget(ctx, by, k.id); err != nil {
		t.Fatal(err)
	}
	want := "key.create key.update key.suspend key.resume key.exhausted key.grant key.revoke key.forget"
	if got := w.acts(k.id); got != want {
		t.Errorf("the log says\n%s, want\n%s", got, want)
	}
	var revoked string
	for _, line := range w.auditLines() {
		if strings.Contains(line, `"action":"key.revoke"`) {
			revoked = line
		}
	}
	for _, part := range []string{
		`"actor":"operator"`, `"from":"192.0.2.7"`,
		`"changes":{"ended_reason":{"after":"the contractor left"},"status":{"after":"revoked","before":"active"}}`,
	} {
		if !strings.Contains(revoked, part) {
			t.Errorf("the entry of the revocation has no %s: %s", part, revoked)
		}
	}
	expiring := w.mint(func(key *record.Key) { key.ExpiresAt = w.clock.time().Add(time.Hour) })
	w.clock.advance(2 * time.Hour)
	w.SweepDue()
	w.SweepDue()
	if got, want := w.acts(expiring.id), "key.create key.expired"; got != want {
		t.Errorf("of a key that expired the log says %s, want %s", got, want)
	}
	if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
		t.Error(err)
	}
}

func TestTheAuditLogHasNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	k := w.mint(func(key *record.Key) {
		key.Name, key.Metadata = "x "+secret.Reveal(), map[string]string{"note": secret.Reveal()}
	})
	log := strings.Join(w.auditLines(), "\n")
	if !strings.Contains(log, k.id) || strings.Contains(log, secret.Reveal()) || strings.Contains(log, k.lookup.String()) {
		t.Errorf("the log says: %s", log)
	}
}

// TestEveryTamperedByteOfAnExportIsFound flips each byte of an export, and drops, swaps
// and repeats its lines.
func TestEveryTamperedByteOfAnExportIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		k := w.mint(func(key *record.Key) { key.Name = "naïve \"quoted\" <&> 名" })
		if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
	}
	lines := w.auditLines()
	verify := func(lines []string) (audit.Verified, error) {
		_, head, err := w.AuditHead()
		if err != nil {
			t.Fatal(err)
		}
		return audit.Verify(strings.NewReader(strings.Join(lines, "\n")+"\n"), &head)
	}
	if v, err := verify(lines); err != nil || v.Entries != 6 || v.First != 1 {
		t.Fatalf("the untouched log: %+v, %v", v, err)
	}
	names := func(what string, err error, seq int) {
		t.Helper()
		var broken *audit.BrokenError
		if !errors.As(err, &broken) || broken.Seq != uint64(seq) {
			t.Errorf("%s: %v, want entry %d named", what, err, seq)
		}
	}
	whole := []byte(strings.Join(lines, "\n") + "\n")
	_, head, err := w.AuditHead()
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		seq := 1 + bytes.Count(whole[:at], []byte("\n"))
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		_, err := audit.Verify(bytes.NewReader(flipped), &head)
		names("a flipped byte", err, seq)
	}
	cut := func(from, to int, with ...string) []string {
		return append(append(append([]string{}, lines[:from]...), with...), lines[to:]...)
	}
	for i := range lines {
		_, err := verify(cut(i, i+1))
		names("a line that is gone", err, i+1)
		_, err = verify(cut(i, i, lines[(i+3)%len(lines)]))
		names("a line too many", err, i+1)
		if i+1 < len(lines) {
			_, err = verify(cut(i, i+2, lines[i+1], lines[i]))
			names("two lines swapped", err, i+1)
		}
	}
}

func TestALostEndOfTheAuditLogIsFoundOutOnOpening(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]string{"entry": "u/", "head": "m/audit"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.mint(activations(1))
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			s := w.disk.Open()
			err := s.Update(func(tx store.Tx) error {
				var last []byte
				err := tx.Scan([]byte(remove), nil, true, func(key, _ []byte) (bool, error) {
					last = bytes.Clone(key)
					return false, nil
				})
				return errors.Join(err, tx.Delete(last))
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = limiter.Open(limiter.Options{Patience: patience, Store: s, Disk: w.beside(), Shadow: w.shadow, Anchor: w.anchor, Clock: w.clock})
			if !errors.Is(err, store.ErrDoubt) {
				t.Fatalf("opened: %v, want ErrDoubt", err)
			}
			if _, err := limiter.Forfeit(limiter.Offline{Store: s, Anchor: w.anchor, Now: w.clock.time()}, limiter.Operator, w.roles); err != nil {
				t.Fatal(err)
			}
			w.open(s)
			if v, err := w.AuditVerify(ctx, limiter.Operator); err != nil || v.Entries < 1 {
				t.Errorf("after the repair: %+v, %v", v, err)
			}
			if log := w.auditLines(); !strings.Contains(log[len(log)-1], "store.repair") {
				t.Errorf("the log ends with %s", log[len(log)-1])
			}
		})
	}
}

// FuzzVerifyAudit reads what somebody says is an export.
func FuzzVerifyAudit(f *testing.F) {
	w := newWorld(f)
	w.mint(activations(1))
	w.mint(func(k *record.Key) { k.Name = "naïve \"<&>\"" })
	good := strings.Join(w.auditLines(), "\n") + "\n"
	f.Add([]byte(good))
	f.Add([]byte(good[:len(good)-1]))
	f.Add([]byte(strings.Replace(good, `"seq":1`, `"seq":1e0`, 1)))
	f.Add([]byte(strings.Replace(good, `"seq":1`, `"seq":01`, 1)))
	f.Add([]byte(`{"seq":1,"hash":null}` + "\n\n"))
	f.Add([]byte(`{"a":{"a":{"a":[[[[[[1]]]]]]}},"a":2}`))
	_, head, err := w.AuditHead()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := audit.Verify(bytes.NewReader(b), &head)
		var broken *audit.BrokenError
		if err != nil && !errors.As(err, &broken) {
			t.Fatalf("%v is no BrokenError", err)
		}
		if err == nil && !strings.HasPrefix(string(b), good[:len(good)-1]) {
			t.Errorf("%d entries that nobody wrote have the head: %q", v.Entries, b)
		}
	})
}
