package till

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestAdviceIsGivenOnceAnHourAndIsBounded(t *testing.T) {
	t.Parallel()
	log := new(bytes.Buffer)
	a := newAdvice(slog.New(slog.NewTextHandler(log, nil)))
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	a.now = func() time.Time { return now }
	mine, other := &target{name: "mine"}, &target{name: "other"}
	said := func() int {
		defer log.Reset()
		return strings.Count(log.String(), "level=WARN")
	}
	for range 3 {
		a.unknownField(mine, "min_tokens")
		a.unknownField(other, "min_tokens")
		a.refusedField(mine, "key_x", "max_tokens", "mend", 400)
	}
	if n := said(); n != 3 {
		t.Errorf("at first it is said %d times, want 3", n)
	}
	now = now.Add(adviceAfter - time.Second)
	if a.unknownField(mine, "min_tokens"); said() != 0 {
		t.Error("it is said again within the hour")
	}
	now = now.Add(time.Second)
	if a.unknownField(mine, "min_tokens"); said() != 1 {
		t.Error("it is not said again after an hour")
	}
	for i := range 10 * maxAdvice {
		a.unknownField(mine, fmt.Sprint("field", i))
	}
	if n := said(); n > maxAdvice || len(a.said) > maxAdvice {
		t.Errorf("%d lines, %d remembered", n, len(a.said))
	}
	now = now.Add(adviceAfter)
	if a.unknownField(mine, "later"); said() != 1 || len(a.said) != 1 {
		t.Errorf("an hour later %d are remembered", len(a.said))
	}
}

// TestAFieldsNameIsPrintedAsItIsQuoted: it is whatever a client wrote.
func TestAFieldsNameIsPrintedAsItIsQuoted(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"\x1b[31mred", "a\nlevel=ERROR msg=gone", "\u202egnp", "a b", strings.Repeat("x", 1<<20), "\xff\xfe", ""} {
		log := new(bytes.Buffer)
		newAdvice(slog.New(slog.NewTextHandler(log, nil))).unknownField(&target{name: "mine"}, name)
		out := log.String()
		if strings.Count(out, "\n") != 1 || strings.ContainsAny(strings.TrimSuffix(out, "\n"), "\x1b\n\u202e") || len(out) > 1000 {
			t.Errorf("%.20q: %.300s", name, out)
		}
		if strings.Contains(out, "allow_field") {
			t.Errorf("%.20q: it is said that it could be allowed: %s", name, out)
		}
	}
}

func TestEachFieldThatTillWritesHasAMend(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"max_tokens": "output_field max_completion_tokens", "max_completion_tokens": "output_field max_tokens",
		"max_output_tokens": "prices file", "num_predict": "prices file", "maxOutputTokens": "prices file",
	} {
		if got := mendOutput(field); !strings.Contains(got, want) || !strings.Contains(got, field) {
			t.Errorf("%s: %s", field, got)
		}
	}
}
