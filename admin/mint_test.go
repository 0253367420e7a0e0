package admin

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

func TestMintAnswersWithTheKeyObjectAndItsString(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.Do("POST", "/keys", `{"name":"nightly","provider":"openai","max_activations":500,"expires_in":"1d",
		"idle_timeout":"90m","first_use_within":"24h","rate":"60/m","max_concurrency":4,"paths":["/v1/chat/completions"],
		"methods":["POST"],"ips":["10.0.0.0/8","192.0.2.7"],"pin_ip":true,"role":"ci","owner":"ops","purpose":"tests",
		"labels":{"team":"search"},"metadata":{"ticket":"7"},"self_revoke":false,"charge":"success"}`)
	if a.Status != http.StatusCreated {
		t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	admintest.Equal(t, "the answer", admintest.Steady(a.Body), `{"id":"key_ID","version":1,"name":"nightly","upstream":"openai","custody":"held","status":"active",`+
		`"max_activations":500,"expires_at":"TIME","idle_timeout":"1h30m","first_use_within":"24h","rate":"60/m","max_concurrency":4,"charge":"success",`+
		`"paths":["/v1/chat/completions"],"methods":["POST"],"ips":["10.0.0.0/8","192.0.2.7"],"pin_ip":true,"self_revoke":false,`+
		`"used_activations":0,"held_activations":0,"remaining_activations":500,`+
		`"role":"ci","owner":"ops","purpose":"tests","labels":{"team":"search"},"metadata":{"ticket":"7"},`+
		`"created_at":"TIME","created_by":"operator","scoped_key":"till_sk_STRING","base_url":"https://agents.example.com"}`+"\n")
	if cc := a.Header.Get("Cache-Control"); cc != "no-store" {
		t.Errorf("Cache-Control is %q: the answer holds a secret", cc)
	}
	m := admintest.Get[wire.Minted](t, a)
	if d := time.Until(*m.ExpiresAt); d < 24*time.Hour-time.Minute || d > 24*time.Hour {
		t.Errorf("expires in %s, want 24h", d)
	}
	if _, err := token.ParseKey(m.ScopedKey); err != nil {
		t.Errorf("the string: %v", err)
	}
	if again := w.Do("GET", "/keys/"+m.ID, ""); strings.Contains(again.Body, m.ScopedKey) || strings.Contains(again.Body, "scoped_key") {
		t.Errorf("the string is shown a second time: %s", again.Body)
	}
	if k := w.Live(&m); k.Key().ID != m.ID {
		t.Errorf("the string finds key %s, not %s", k.Key().ID, m.ID)
	}
}

func TestMintLeavesOutWhatIsNotSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.Do("POST", "/keys", `{"upstream":"github","unlimited":true,"name":null,"max_tokens":null,"rate":null}`)
	admintest.Equal(t, "the answer", admintest.Steady(a.Body), `{"id":"key_ID","version":1,"upstream":"github","custody":"held","status":"active","charge":"forwarded",`+
		`"self_revoke":true,"used_activations":0,"held_activations":0,"created_at":"TIME","created_by":"operator","scoped_key":"till_sk_STRING",`+
		`"base_url":"https://agents.example.com"}`+"\n")
}

func TestMintNeedsNoUpstreamWhereThereIsOneWithACredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Upstreams = w.Upstreams[1:]
	if m := w.NewKey(`{"max_activations":0}`); m.Upstream != "openai" || m.MaxActivations == nil || *m.MaxActivations != 0 || m.Status != record.Exhausted {
		t.Errorf("got %+v, want a canary for openai", m.KeyObject)
	}
}

func TestMintRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const limit = `"upstream":"openai","max_activations":1`
	for name, test := range map[string]struct{ body, message string }{
		"no body":                        {``, "must be a complete JSON object"},
		"half a body":                    {`{"name":`, "must be a complete JSON object"},
		"null":                           {`null`, "must be a JSON object"},
		"a list":                         {`[]`, "must be a JSON object"},
		"something after the object":     {`{` + limit + `} {}`, "nothing after it"},
		"no JSON":                        {`{` + limit + `,}`, "JSON object"},
		"a field that is not known":      {`{` + limit + `,"max_activation":1}`, `unknown field "max_activation"`},
		"a known field in another case":  {`{` + limit + `,"Rate":"1/m"}`, `unknown field "Rate"`},
		"a field twice":                  {`{` + limit + `,"max_activations":9}`, `"max_activations" is given twice`},
		"an inner field twice":           {`{` + limit + `,"labels":{"a":"1","a":"2"}}`, `"a" is given twice`},
		"text for a number":              {`{"upstream":"openai","max_activations":"500"}`, "max_activations must be a whole number, got string"},
		"part of an activation":          {`{"upstream":"openai","max_activations":1.5}`, "max_activations must be a whole number"},
		"fewer than no activations":      {`{"upstream":"openai","max_activations":-1}`, "max_activations must not be negative, got -1"},
		"more than can be counted":       {`{"upstream":"openai","max_activations":9223372036854775807}`, "max_activations must be from 0"},
		"a number for a duration":        {`{` + limit + `,"idle_timeout":5}`, "idle_timeout must be text, got number"},
		"no duration":                    {`{` + limit + `,"idle_timeout":"soon"}`, `idle_timeout: a duration is written 90s, 24h or 7d, got "soon"`},
		"a negative duration":            {`{` + limit + `,"first_use_within":"-1h"}`, "first_use_within: a duration"},
		"no time at all to live":         {`{"upstream":"openai","expires_in":"0s"}`, "expires_in must be more than 0"},
		"no time":                        {`{"upstream":"openai","expires_at":"tomorrow"}`, "expires_at must be a time such as"},
		"an end in the past":             {`{"upstream":"openai","expires_at":"2020-01-01T00:00:00Z"}`, "expires_at must be in the future"},
		"two ends":                       {`{"upstream":"openai","expires_at":"2100-01-01T00:00:00Z","expires_in":"1h"}`, "not both"},
		"no rate":                        {`{` + limit + `,"rate":"often"}`, `rate: "often" must be`},
		"a negative concurrency":         {`{` + limit + `,"max_concurrency":-1}`, "max_concurrency must be from"},
		"a path that is none":            {`{` + limit + `,"paths":["v1"]}`, "paths"},
		"a number for a path":            {`{` + limit + `,"paths":[7]}`, "paths must hold text"},
		"text for paths":                 {`{` + limit + `,"paths":"/v1"}`, "paths must be a list"},
		"a method in small letters":      {`{` + limit + `,"methods":["post"]}`, "methods must be"},
		"no address":                     {`{` + limit + `,"ips":["localhost"]}`, "ips: must be addresses or networks"},
		"a network with host bits":       {`{` + limit + `,"ips":["10.0.0.1/8"]}`, "ips: the network"},
		"a charge that is none":          {`{` + limit + `,"charge":"sometimes"}`, "charge must be"},
		"success without activations":    {`{"upstream":"openai","expires_in":"1h","charge":"success"}`, "needs max_activations"},
		"a list for labels":              {`{` + limit + `,"labels":["a"]}`, "labels must be an object"},
		"a role that is not configured":  {`{` + limit + `,"role":"boss"}`, "role must name a configured role"},
		"no limit":                       {`{"upstream":"openai","rate":"1/m"}`, "set at least one of max_activations"},
		"two upstreams":                  {`{` + limit + `,"provider":"github"}`, "two different upstreams"},
		"an upstream that is not there":  {`{"upstream":"gemini","max_activations":1}`, "the upstreams are: github, openai, spare"},
		"an upstream with no credential": {`{"upstream":"spare","max_activations":1}`, "has no credential"},
		"one of several upstreams":       {`{"max_activations":1}`, "must be one of: github, openai, spare"},
		"control characters":             {`{` + limit + `,"name":"a\u001b[2J"}`, "name must not contain control characters"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := w.Do("POST", "/keys", test.body)
			if code, message := a.Fault(t); a.Status != 400 || code != "invalid_request" || !strings.Contains(message, test.message) {
				t.Errorf("answered %d %s %q, want 400 invalid_request with %q", a.Status, code, message, test.message)
			}
		})
	}
	t.Cleanup(func() {
		if keys := admintest.Get[wire.Listed](t, w.Do("GET", "/keys", "")); len(keys.Keys) != 0 {
			t.Errorf("%d keys were minted all the same", len(keys.Keys))
		}
	})
}

func TestTokensAndDollarsAreMintedGrantedAndShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_tokens":1000000,"max_spend_usd":"5.00","max_request_spend_usd":0.25,"fit":false,"unknown_price":"count_only"}`)
	k := admintest.Get[wire.KeyObject](t, w.Do("POST", "/keys/"+m.ID+"/grant", `{"tokens":500000,"spend_usd":"0.50"}`))
	if *k.MaxTokens != 1_500_000 || *k.RemainingTokens != 1_500_000 || *k.UsedTokens != 0 || k.MaxSpendUSD != "5.50" || k.RemainingSpendUSD != "5.50" ||
		k.UsedSpendUSD != "0.00" || k.MaxRequestUSD != "0.25" || *k.Fit || k.UnknownPrice != "count_only" {
		t.Errorf("minted and granted: %+v", k)
	}
	k = admintest.Get[wire.KeyObject](t, w.Do("PATCH", "/keys/"+m.ID, `{"max_spend_usd":null,"max_request_spend_usd":null,"fit":null}`))
	if k.MaxSpendUSD != "" || k.MaxRequestUSD != "" || !*k.Fit {
		t.Errorf("after the dollars are gone: %+v", k)
	}
	if k := admintest.Get[wire.KeyObject](t, w.Do("PATCH", "/keys/"+m.ID, `{"max_spend_cents":250}`)); k.MaxSpendUSD != "2.50" {
		t.Errorf("in cents: %+v", k)
	}
	for body, message := range map[string]string{
		`"max_tokens":-1`:                                 "max_tokens must not be negative",
		`"max_tokens":1.5`:                                "max_tokens must be a whole number",
		`"max_spend_usd":"-5"`:                            "max_spend_usd: an amount is written",
		`"max_spend_usd":"5,00"`:                          "max_spend_usd: an amount is written",
		`"max_spend_usd":"1e3"`:                           "max_spend_usd: an amount is written",
		`"max_spend_usd":"0.0000000001"`:                  "max_spend_usd: an amount is written",
		`"max_spend_cents":-1`:                            "max_spend_cents must be from 0",
		`"max_spend_usd":"5","max_spend_cents":400`:       "two different amounts",
		`"max_activations":1,"max_request_spend_usd":"1"`: "needs max_spend_usd",
		`"max_spend_usd":"5","max_request_spend_usd":"0"`: "must be more than 0",
		`"max_spend_usd":"5","unknown_price":"guess"`:     "unknown_price must be",
		`"max_spend_usd":"5","renews":"hour"`:             "renews must be day, week or month",
		`"expires_in":"1h","renews":"day"`:                "renews needs max_activations",
		`"max_spend_usd":"5","upstream":"github"`:         "is given twice",
	} {
		a := w.Do("POST", "/keys", `{"upstream":"openai",`+body+`}`)
		if _, got := a.Fault(t); a.Status != 400 || !strings.Contains(got, message) {
			t.Errorf("%s: %d %q, want %q", body, a.Status, got, message)
		}
	}
	a := w.Do("POST", "/keys", `{"upstream":"github","max_spend_usd":"5"}`)
	if _, got := a.Fault(t); a.Status != 400 || !strings.Contains(got, "max_spend_usd needs an upstream with a preset") {
		t.Errorf("an upstream of which nothing is known: %d %q", a.Status, got)
	}
}

func TestASealedKeyBringsItsOwnCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const real = "sk-real-secret-0123456789"
	a := w.Do("POST", "/keys", `{"upstream":"spare","max_activations":1,"upstream_key":" `+real+`\n"}`)
	m := admintest.Get[wire.Minted](t, a)
	first, box, sealed := strings.Cut(m.ScopedKey, ".")
	if m.Custody != "sealed" || !sealed || len(first) != len(token.KeyPrefix)+28 || strings.Contains(a.Body, real) {
		t.Fatalf("minted %s", a.Body)
	}
	opened, err := openBox(w, &m, box)
	if err != nil || opened != real {
		t.Errorf("the box holds %q, %v", opened, err)
	}
	for _, path := range []string{"/keys", "/keys/" + m.ID} {
		if body := w.Do("GET", path, "").Body; strings.Contains(body, box) || strings.Contains(body, real) {
			t.Errorf("%s shows the box: %s", path, body)
		}
	}
	admintest.Get[wire.KeyObject](t, w.Do("POST", "/keys/"+m.ID+"/revoke", ""))
	if _, err := openBox(w, &m, box); err == nil {
		t.Error("the box of a revoked key opens")
	}
	for name, value := range map[string]string{
		"nothing": `""`, "a number": `7`, "two lines": `"` + real + `\nx"`, "a list": `["` + real + `"]`, "too much": `"` + strings.Repeat("x", 5000) + `"`,
	} {
		a := w.Do("POST", "/keys", `{"upstream":"spare","max_activations":1,"upstream_key":`+value+`}`)
		if _, message := a.Fault(t); a.Status != 400 || !strings.HasPrefix(message, "upstream_key") || strings.Contains(a.Body, real) {
			t.Errorf("%s: answered %d %s", name, a.Status, a.Body)
		}
	}
}

// openBox opens a key's box with what the store holds about the key.
func openBox(w *world, m *wire.Minted, box string) (string, error) {
	w.T.Helper()
	key, err := token.ParseSealKey(strings.Repeat("5e", token.SealKeyLen))
	if err != nil {
		w.T.Fatal(err)
	}
	sealer, err := token.NewSealer(key)
	if err != nil {
		w.T.Fatal(err)
	}
	k := w.Live(m)
	parsed, err := token.ParseKey(m.ScopedKey)
	if err != nil {
		w.T.Fatal(err)
	}
	number, refusal := k.Number(k.Key(), parsed.Lookup, netip.Addr{})
	if refusal != nil {
		return "", errors.New(refusal.Message)
	}
	made := k.Box(k.Key(), number)
	opened, err := sealer.Open(box, made.SealKey, made.Salt, token.Binding{Lookup: parsed.Lookup, Upstream: k.Key().Upstream, Origins: made.Origins})
	return opened.Reveal(), err
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.Do("POST", "/keys", `{"purpose":"`+strings.Repeat("x", maxBody)+`"}`)
	if code, _ := a.Fault(t); a.Status != http.StatusRequestEntityTooLarge || code != "body_too_large" {
		t.Errorf("answered %d %s", a.Status, code)
	}
}
