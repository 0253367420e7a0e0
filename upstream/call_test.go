package upstream

import (
	"errors"
	"testing"
)

// TestEveryRuleReadsTheSameBodies: the rule about models, the bound of what is used
// and strip_tools agree on which bodies are JSON, so that the way in which a request
// is written is not accepted from one key and refused from another.
func TestEveryRuleReadsTheSameBodies(t *testing.T) {
	t.Parallel()
	p, _ := Lookup("openai")
	p, err := p.With(Options{StripTools: []string{"web_search"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		kind, encoding string
		read           bool
	}{
		{"", "", true},
		{"", "identity", true},
		{"", "Identity", true},
		{"", "gzip", false},
		{"application/json", "", true},
		{"application/json", "gzip, gzip", false},
		{"Application/JSON; charset=UTF-8", "", true},
		{"application/json; charset=us-ascii", "", true},
		{"application/json; charset=utf-7", "", false},
		{"application/json; charset=utf-8; charset=utf-16", "", false},
		{"application/json; charset", "", false},
		{"application/vnd.api+json", "", true},
		{"text/json", "", true},
		{"text/plain", "", false},
		{"application/x-www-form-urlencoded", "", false},
		{"json", "", false},
	} {
		call := func() *Call {
			return &Call{Method: "POST", Path: "/v1/responses", ContentType: test.kind, Encoding: test.encoding,
				Body: []byte(`{"model":"gpt-5","input":"x","tools":[{"type":"web_search"},{"type":"function","name":"f"}]}`)}
		}
		_, _, err := p.Models(call())
		if (err == nil) != test.read {
			t.Errorf("%q, %q: the models are not known: %v", test.kind, test.encoding, err)
		}
		c := call()
		changed, err := p.Strip(c)
		if changed != test.read || (err == nil) != test.read {
			t.Errorf("%q, %q: tools are taken out: %t, %v", test.kind, test.encoding, changed, err)
		}
		if !test.read {
			c.Body = []byte(`{"model":"gpt-5","input":"x"}`)
		}
		if _, err := p.Estimate(c); (err == nil) != test.read || err != nil && !errors.Is(err, ErrBody) && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%q, %q: its bound: %v", test.kind, test.encoding, err)
		}
	}
}
