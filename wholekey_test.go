package till

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// refusals is how often requests for keys of an upstream were refused with a code.
func (s *site) refusals(upstream string, code record.Code) (n float64) {
	s.t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(s.h.metrics.refusals); err != nil {
		s.t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := make(map[string]string)
			for _, pair := range m.GetLabel() {
				labels[pair.GetName()] = pair.GetValue()
			}
			if labels["upstream"] == upstream && labels["code"] == string(code) {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// TestOnlyWhoShowsAWholeKeyIsRefusedInItsDialect: to others it would tell whose API the key
// is for. What is counted for the operator has the key's upstream as soon as it is known.
func TestOnlyWhoShowsAWholeKeyIsRefusedInItsDialect(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	sealer := func() *token.Sealer {
		key, err := token.NewSealKey()
		if err != nil {
			t.Fatal(err)
		}
		sealer, err := token.NewSealer(key)
		if err != nil {
			t.Fatal(err)
		}
		return sealer
	}
	s.h.app.sealing = &sealing{sealer: sealer()}
	issue := func() (string, record.Issue) {
		text, lookup, err := token.MintKey()
		salt, saltErr := token.NewSalt()
		box, made, boxErr := s.h.app.Seal("openai", lookup, salt, token.NewSecret("sk-real-sealed-98765432109876543210"))
		if err := errors.Join(err, saltErr, boxErr); err != nil {
			t.Fatal(err)
		}
		return text.Reveal() + "." + box.Reveal(), record.Issue{Lookup: lookup, Box: made}
	}
	mintSealed := func() minted {
		text, first := issue()
		spec := &record.Key{Upstream: "openai", Custody: record.CustodySealed, Limit: record.NoLimits(), SealKey: first.Box.SealKey, Origins: first.Box.Origins}
		spec.Limit[record.Activations] = 10
		v, err := s.Mint(limiter.Operator, spec, limiter.Birth{Lookup: first.Lookup, Salt: first.Box.Salt})
		if err != nil {
			t.Fatal(err)
		}
		return minted{v.ID, text}
	}
	rotate := func(k minted, next record.Issue) minted {
		if _, _, err := s.Rotate(limiter.Operator, k.id, next, 0); err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, next := issue()
	held, sealed, unknown := s.mint(), mintSealed(), minted{}
	unknown.text, _ = issue()
	first, box, _ := strings.Cut(sealed.text, ".")
	_, otherBox, _ := strings.Cut(mintSealed().text, ".")
	remembered := func(r *http.Request) {
		r.SetBasicAuth("anyone", held.text)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "cors")
	}
	if status, code, says := s.serve(sealed, chat("gpt-5-mini")); status != http.StatusOK {
		t.Fatalf("the whole key: %d %s: %s", status, code, says)
	}
	for _, test := range []struct {
		name     string
		key      minted
		as       func(*http.Request)
		status   int
		code     record.Code
		dialect  bool
		upstream string
		before   func()
	}{
		{name: "a string that was replaced", key: rotate(s.mint(), record.Issue{Lookup: next.Lookup}), status: 403, code: record.CodeKeyRevoked, dialect: true, upstream: "openai"},
		{name: "by a page of another site", key: held, as: remembered, status: 400, code: record.CodeBadRequest, dialect: true, upstream: "openai"},
		{name: "a sealed key's string that was replaced", key: func() minted {
			_, next := issue()
			return rotate(mintSealed(), next)
		}(), status: 403, code: record.CodeKeyRevoked, upstream: "openai"},
		{name: "no box", key: minted{sealed.id, first}, status: 401, code: record.CodeKeyInvalid, upstream: "openai"},
		{name: "another key's box", key: minted{sealed.id, first + "." + otherBox}, status: 401, code: record.CodeKeyInvalid, upstream: "openai"},
		{name: "a held key with a box", key: minted{held.id, held.text + "." + box}, status: 401, code: record.CodeKeyInvalid, upstream: "openai"},
		{name: "an unknown key", key: unknown, status: 401, code: record.CodeKeyInvalid},
		{name: "a seal key that is missing", key: sealed, status: 503, code: record.CodeStoreUnavailable, upstream: "openai", before: func() {
			s.h.app.sealing.sealer = sealer()
		}},
	} {
		if test.before != nil {
			test.before()
		}
		counted := s.refusals(test.upstream, test.code)
		a := chat("gpt-5-mini")
		a.as = test.as
		status, h, answer := s.serveAll(test.key, a)
		if code := record.Code(h.Get("Till-Refusal")); status != test.status || code != test.code {
			t.Errorf("%s: answered %d %s: %s", test.name, status, code, answer)
		}
		if retry := status == http.StatusServiceUnavailable; (h.Get("X-Should-Retry") == "false") == retry || (h.Get("Retry-After") != "") != retry {
			t.Errorf("%s: %v", test.name, h)
		}
		var body struct {
			Type  string `json:"type"`
			Error struct {
				Code string `json:"code"`
			} `json:"error"`
		}
		if err := json.Unmarshal([]byte(answer), &body); err != nil || body.Error.Code != string(test.code) || (body.Type == "") != test.dialect {
			t.Errorf("%s: %v: %s", test.name, err, answer)
		}
		if names := test.key.id != "" && strings.Contains(answer, test.key.id); names != (test.code == record.CodeKeyRevoked) {
			t.Errorf("%s: names the key %t: %s", test.name, names, answer)
		}
		if n := s.refusals(test.upstream, test.code) - counted; n != 1 {
			t.Errorf("%s: counted %g more for upstream %q, want 1", test.name, n, test.upstream)
		}
	}
}
