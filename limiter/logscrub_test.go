package limiter_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// TestTheLogHoldsNoKeyThatSomebodyPasted writes a key into every text that people
// choose, and does what is logged.
func TestTheLogHoldsNoKeyThatSomebodyPasted(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w := newWorld(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	lockdown := limiter.NewLockdown(limiter.LockdownOptions{Path: t.TempDir() + "/lockdown", Logger: log})
	t.Cleanup(lockdown.Close)
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: w.disk.Open(), Anchor: w.anchor, Shadow: w.shadow + "2", Logger: log, Lockdown: lockdown})
	if err != nil {
		t.Fatal(err)
	}
	w.Limiter = l
	text, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	pasted := "till_admin_" + strings.TrimPrefix(text.Reveal(), "till_sk_")
	anna := limiter.Caller{Name: pasted, Role: record.OperatorRole}
	k := w.mintBy(anna, func(k *record.Key) { delegating(activations(50))(k); k.Name = "nightly " + text.Reveal() })
	k.mustChild(func(k *record.Key) { k.Name, k.Limit[record.Activations] = text.Reveal(), 1 })
	if _, err := w.CreateToken(anna, limiter.TokenSpec{Lookup: lookup, Name: text.Reveal(), Role: record.OperatorRole}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Revoke(ctx, anna, k.id, text.Reveal()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := lockdown.Set(anna, text.Reveal()); err != nil {
		t.Fatal(err)
	}
	limiter.Scrubbed(log).With("name", text.Reveal()).WithGroup("g").Error("x", "error", errors.New("no "+text.Reveal()), slog.Group("in", "name", pasted))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, text.Reveal()) || strings.Contains(line, pasted) {
			t.Errorf("the log holds it: %s", line)
		}
	}
	for _, want := range []string{`"msg":"key minted"`, `"name":"nightly [key]"`, `"msg":"child key minted"`, `"msg":"admin token created"`, `"msg":"lockdown`, `"error":"no [key]"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, b.String())
		}
	}
}
