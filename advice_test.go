package till

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
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
	now = now.Add(adviceInterval - time.Second)
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
	if n := said(); n > maxAdvice || len(a.loggedAt) > maxAdvice {
		t.Errorf("%d lines, %d remembered", n, len(a.loggedAt))
	}
	if a.refusedField(other, "key_x", "max_tokens", "mend", 400); said() != 1 {
		t.Error("names that clients made up keep out what no client chooses")
	}
	now = now.Add(adviceInterval)
	if a.unknownField(mine, "later"); said() != 1 || len(a.loggedAt) != 1 {
		t.Errorf("an hour later %d are remembered", len(a.loggedAt))
	}
}

// TestAFieldsNameIsPrintedAsItIsQuoted, because a client may have written anything.
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
		if got := outputFix(field); !strings.Contains(got, want) || !strings.Contains(got, field) {
			t.Errorf("%s: %s", field, got)
		}
	}
}

// TestARequestThatQuotesTillIsKnown: an error may repeat any part of the request, as
// the value that is wrong or the header that is unknown.
func TestARequestThatQuotesTillIsKnown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		query, header, body string
		want                bool
	}{
		{"", "", `{"model":"m","messages":[{"role":"user","content":"\u0414\u0430, \u003cb\u003e\n"}]}`, false},
		{"beta=true", "tools-2026", `{"model":"m","stream":true}`, false},
		{"", "", `{"temperature":"stream_options"}`, true},
		{"", "", `{"temperature":"\u0073tream_options"}`, true},
		{"", "", `{"temperature":"stream\u005Foptions"}`, true},
		{"stream_options=1", "", `{}`, true},
		{"%73tream_options=1", "", `{}`, true},
		{"", "a,stream_options", `{}`, true},
	} {
		r := &http.Request{URL: &url.URL{RawQuery: test.query}, Header: http.Header{"Anthropic-Beta": {test.header}}}
		if got := quotes(r, []byte(test.body), "stream_options"); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
