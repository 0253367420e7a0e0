package till

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/till-proxy/till/upstream"
)

// advice warns the operator about requests that fail because of a setting, once an
// hour for each cause. It lives as long as the store is in use.
type advice struct {
	log *slog.Logger
	now func() time.Time

	mu       sync.Mutex
	loggedAt map[string]time.Time // by cause
}

const (
	adviceInterval = time.Hour
	// maxAdvice bounds the causes that are remembered, and maxFieldAdvice those that
	// clients choose: names of fields. Beyond that nothing more is logged within the
	// hour.
	maxAdvice      = 512
	maxFieldAdvice = maxAdvice / 2
)

func newAdvice(log *slog.Logger) *advice {
	return &advice{log: log, now: time.Now, loggedAt: make(map[string]time.Time)}
}

// shouldLog reports whether to log a cause now. It reports false if the number of
// remembered causes has reached most.
func (a *advice) shouldLog(what string, most int) bool {
	if a == nil {
		return false
	}
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, ok := a.loggedAt[what]; ok && now.Sub(at) < adviceInterval {
		return false
	}
	if len(a.loggedAt) >= most {
		for what, at := range a.loggedAt {
			if now.Sub(at) >= adviceInterval {
				delete(a.loggedAt, what)
			}
		}
		if len(a.loggedAt) >= most {
			return false
		}
	}
	a.loggedAt[what] = now
	return true
}

// unknownField warns about a field for which a request was refused. The client chose
// its name.
func (a *advice) unknownField(t *target, name string) {
	if !a.shouldLog(fmt.Sprintf("field %s %.64q", t.name, name), maxFieldAdvice) {
		return
	}
	mend := "it cannot be allowed: a configuration cannot hold such a name"
	if upstream.Allowable(name) {
		mend = "if it makes the upstream do nothing more: allow_field " + name
	}
	a.log.Warn("a request was refused for a field of which it is not known what it costs",
		"upstream", t.name, "field", fmt.Sprintf("%.64q", name), "mend", mend)
}

// refusedField warns about an error of the upstream that names a field which till,
// and not the client, wrote into the request.
func (a *advice) refusedField(t *target, keyID, field, mend string, status int) {
	if a.shouldLog("refused "+t.name+" "+field, maxAdvice) {
		a.log.Warn("the upstream refused a request, naming a field that till wrote and the client did not send",
			"upstream", t.name, "key_id", keyID, "field", field, "status", status, "mend", mend)
	}
}

// outputFix says how to get requests accepted that till bounds by this field.
func outputFix(field string) string {
	row := "state the model's context_window and max_output_tokens in a prices file, or let clients send " + field
	switch field {
	case upstream.MaxTokens:
		return "output_field max_completion_tokens, if the server reads that; otherwise " + row
	case upstream.MaxCompletionTokens:
		return "output_field max_tokens, if the server reads that; otherwise " + row
	}
	return row
}

// learnFromError looks in an error of the upstream for a field that till wrote. A
// server that does not know the field that asks for usage is not asked again, provided
// that it never accepted that field and that the name cannot be an echo of the request:
// otherwise a client that makes a server repeat the name would have all streams charged
// at their bound.
func (x *exchange) learnFromError(res *http.Response, text []byte) {
	if res.StatusCode != http.StatusBadRequest && res.StatusCode != http.StatusUnprocessableEntity {
		return
	}
	t, a, key := x.target, x.target.advice, x.grant.Key().ID
	output, usage := x.usage.estimate.Written(x.usage.output >= 0)
	if output != "" && bytes.Contains(text, []byte(output)) {
		a.refusedField(t, key, output, outputFix(output), res.StatusCode)
	}
	if tier := x.usage.estimate.NamesTier(); tier != "" && bytes.Contains(text, []byte(tier)) {
		a.refusedField(t, key, tier, "service_tier auto: the project's tier serves all requests, and the dearer price is held", res.StatusCode)
	}
	if usage == "" || !bytes.Contains(text, []byte(usage)) {
		return
	}
	mend := "ask_usage off: streams are then charged at their bound"
	if !t.answersUsage.Load() && t.settings[askUsageOption] == "" && !x.usage.quotes {
		if _, x.stoppedAsking = t.contradictions.add(t, contradiction{Option: askUsageOption, KeyID: key}); x.stoppedAsking {
			mend = "none is needed: streams of this upstream are not asked from now on, and charged at their bound; ask_usage off says the same, ask_usage on asks again"
		}
	}
	a.refusedField(t, key, usage, mend, res.StatusCode)
}

// quotes reports whether a request contains a word, so that an error may merely
// quote it. Of the characters that JSON can escape only letters can be part of the
// word, and nobody escapes those except to hide them.
func quotes(r *http.Request, body []byte, word string) bool {
	if bytes.Contains(body, []byte(word)) || strings.Contains(r.URL.RawQuery, word) || strings.Contains(r.URL.RawQuery, "%") {
		return true
	}
	for _, letters := range []string{`\u005`, `\u006`, `\u007`} {
		if bytes.Contains(body, []byte(letters)) {
			return true
		}
	}
	for _, values := range r.Header {
		if slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, word) }) {
			return true
		}
	}
	return false
}
