package upstream

import (
	"strings"
	"testing"
	"time"
)

// TestNoProjectChoosesADearerTier than is held: OpenAI serves what names no tier, or
// "auto", with the project's, which may be priority (openai 6.49.0,
// resources/chat/completions and resources/responses, service_tier;
// developers.openai.com/api/docs/guides/priority-processing, "Project Service Tier").
func TestNoProjectChoosesADearerTier(t *testing.T) {
	t.Parallel()
	const chat, responses = "/v1/chat/completions", "/v1/responses"
	const vendor, gateway = "api.openai.com", "gateway.example"
	for _, test := range []struct {
		name, host, option, path, members string
		held, asked                       int64
		want                              string // the member as it is sent; "": the request is sent as it came
	}{
		{"none", vendor, "", chat, `"n":1`, 1000, 1000, `"service_tier":"default"`},
		{"auto", vendor, "", chat, `"service_tier":"auto"`, 1000, 1000, `"service_tier":"default"`},
		{"auto, in capitals", vendor, "", chat, `"service_tier":"AUTO"`, 1000, 1000, `"service_tier":"default"`},
		{"null", vendor, "", chat, `"service_tier":null`, 1000, 1000, `"service_tier":"default"`},
		{"auto, escaped", vendor, "", chat, `"service_ti\u0065r":"\u0061uto"`, 1000, 1000, `"service_ti\u0065r":"default"`},
		{"none, for responses", vendor, "", responses, `"input":"x"`, 1000, 1000, `"service_tier":"default"`},
		{"none, in a region", "eu.api.openai.com", "", responses, `"input":"x"`, 1100, 1100, `"service_tier":"default"`},
		{"another vendor's field", vendor, "", chat, `"serviceTier":"default"`, 1000, 1000, `"service_tier":"default"`},
		{"default", vendor, "", chat, `"service_tier":"default"`, 1000, 1000, ""},
		{"flex", vendor, "", chat, `"service_tier":"flex"`, 1000, 1000, ""},
		{"priority", vendor, "", chat, `"service_tier":"priority"`, 2000, 2000, ""},
		{"fast", vendor, "", responses, `"service_tier":"fast"`, 2000, 2000, ""},
		{"an endpoint without the field", vendor, "", "/v1/completions", `"prompt":"x"`, 1000, 1000, ""},
		{"embeddings", vendor, "", "/v1/embeddings", `"input":"x"`, 1000, 1000, ""},
		{"a gateway", gateway, "", chat, `"n":1`, 1000, 1000, ""},
		{"a gateway that knows it", gateway, DefaultTier, chat, `"n":1`, 1000, 1000, `"service_tier":"default"`},
		{"a name that looks like the vendor's", "xapi.openai.com", "", chat, `"n":1`, 1000, 1000, ""},
		{"the project decides", vendor, AutoTier, chat, `"n":1`, 2000, 1000, ""},
		{"the project decides, as the request says", vendor, AutoTier, responses, `"input":"x","service_tier":"auto"`, 2000, 1000, ""},
		{"the request decides", vendor, AutoTier, chat, `"service_tier":"default"`, 1000, 1000, ""},
		{"the project decides, at a gateway", gateway, AutoTier, chat, `"n":1`, 2000, 1000, ""},
		{"no project decides about embeddings", vendor, AutoTier, "/v1/embeddings", `"input":"x"`, 1000, 1000, ""},
	} {
		p := withOptions(t, "openai", Options{Hosts: []string{test.host}, ServiceTier: test.option})
		body := `{"model":"gpt-6-sol",` + test.members + `}`
		call := func() *Call {
			return &Call{Method: "POST", Path: test.path, ContentType: "application/json", Body: []byte(body)}
		}
		e, err := p.Estimate(call())
		if err != nil || e.Permille != test.held || e.Asked != test.asked {
			t.Errorf("%s: %+v, %v; want %d permille held and %d charged", test.name, e, err, test.held, test.asked)
			continue
		}
		if e.NamesTier() != "" {
			t.Errorf("%s: a tier is named although no dollars are limited", test.name)
		}
		e.NameTier()
		if named := e.NamesTier() != ""; named != (test.want != "") {
			t.Errorf("%s: a tier is named: %v", test.name, named)
		}
		sent := string(asSent(e, -1))
		if test.want == "" && sent != body || test.want != "" && (strings.Count(sent, test.want) != 1 || strings.Contains(strings.ToLower(sent), "auto")) {
			t.Errorf("%s: sent %s", test.name, sent)
		}
		again, err := p.Estimate(&Call{Method: "POST", Path: test.path, ContentType: "application/json", Body: []byte(sent)})
		if !strings.Contains(body, "serviceTier") && (err != nil || again.Permille != test.held) {
			t.Errorf("%s: what is sent is held at %+v, %v", test.name, again, err)
		}
	}
	p := withOptions(t, "openai", Options{Hosts: []string{vendor, gateway}})
	if e, err := p.Estimate(chatCall(`{"model":"m"}`)); err != nil {
		t.Error(err)
	} else if e.NameTier(); e.NamesTier() != "" {
		t.Error("a gateway among the addresses is sent what it may not know")
	}
	p = withOptions(t, "openai", Options{Hosts: []string{vendor}, ServiceTier: AutoTier})
	if e, err := p.Estimate(chatCall(`{"model":"gpt-5.5"}`)); err != nil || e.Permille != 2500 {
		t.Errorf("%+v, %v", e, err)
	}
	for _, preset := range Names() {
		p, _ := Lookup(preset)
		_, err := p.With(Options{ServiceTier: AutoTier})
		if ok := preset == "openai"; ok != (err == nil) {
			t.Errorf("%s: %v", preset, err)
		}
	}
}

// TestAFasterTierIsHeldAtItsPriceWhereverItIsServed: Mistral serves "auto" with priority
// where the account has it, which costs 1.75 times as much, and nothing else with it
// (docs.mistral.ai/inference/priority-tier); GPT-5.5 costs 2.5 times as much
// (openai.com/api-priority-processing), also by OpenRouter's name.
func TestAFasterTierIsHeldAtItsPriceWhereverItIsServed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, host, model, members string
		want                         int64
	}{
		{"mistral", "", "mistral-medium-2604", `"service_tier":"auto"`, 1750},
		{"mistral", "", "mistral-medium-2604", `"service_tier":"AUTO"`, 1750},
		{"mistral", "api.eu.mistral.ai", "mistral-medium-2604", `"service_tier":"auto"`, 1925},
		{"mistral", "", "mistral-medium-2604", `"service_tier":"priority"`, 1750},
		{"mistral", "", "mistral-medium-2604", `"service_tier":"standard_only"`, 1000},
		{"mistral", "", "mistral-medium-2604", `"n":1`, 1000},
		{"openrouter", "", "openai/gpt-5.5", `"service_tier":"priority"`, 2500},
		{"openrouter", "", "openai/gpt-6-sol", `"service_tier":"priority"`, 2000},
		{"openrouter", "", "openai/gpt-5.5", `"service_tier":"auto"`, 1000},
		{"groq", "", "openai/gpt-oss-120b", `"service_tier":"auto"`, 1000},
	} {
		p := withOptions(t, test.preset, Options{Hosts: []string{test.host}})
		e, err := p.Estimate(chatCall(`{"model":"` + test.model + `",` + test.members + `}`))
		if err != nil || e.Permille != test.want || e.Asked != test.want {
			t.Errorf("%s, %s, %s: %v; want %d permille", test.preset, test.model, test.members, err, test.want)
		}
	}
}

// TestMistralsStandardTierIsChargedWhereTheAnswerNamesIt: the answer's usage says which
// tier served the request (docs.mistral.ai/inference/priority-tier).
func TestMistralsStandardTierIsChargedWhereTheAnswerNamesIt(t *testing.T) {
	t.Parallel()
	price := priced(t, "mistral", "mistral-medium-2604", pricedAt)
	for _, test := range []struct {
		asked, served string
		want          int64
	}{
		{"auto", "standard", 1000},
		{"auto", "priority", 1750},
		{"auto", "", 1750},
		{"auto", "auto", 1750},
		{"auto", "flex", 1750},
		{"flex", "flex", 1000},
		{"standard_only", "standard", 1000},
		{"standard_only", "", 1000},
		{"standard_only", "priority", 1750},
	} {
		p := preset(t, "mistral")
		e, err := p.Estimate(chatCall(`{"model":"mistral-medium-2604","service_tier":"` + test.asked + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		m := p.Meter(false)
		m.Write([]byte(`{"model":"mistral-medium-2604","usage":{"prompt_tokens":22,"completion_tokens":70,"total_tokens":92,"service_tier":"` + test.served + `"}}`))
		m.Close()
		if got := price.Permille(e, m, pricedAt, pricedAt); got != test.want {
			t.Errorf("%s, served as %q: %d permille, want %d", test.asked, test.served, got, test.want)
		}
	}
}

// TestNoTierIsRoundedDown: a multiple of the operator's and one of the vendor's make
// parts of a permille, and what is charged would be less than the bill.
func TestNoTierIsRoundedDown(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for served, want := range map[string]int64{"priority": 2503, "ultrafast": 6006, "flex": 501, "default": 1001, "scale": 1001} {
		m := NewMeter(false)
		m.Write([]byte(`{"service_tier":"` + served + `","usage":{"prompt_tokens":1,"completion_tokens":1}}`))
		m.Close()
		e := &Estimate{Model: "gpt-5.5", Asked: 1001, Permille: 1001, Flex: served == "flex"}
		if got := (&Price{Provider: "openai"}).Permille(e, m, now, now); got != want {
			t.Errorf("served as %s: %d permille, want %d", served, got, want)
		}
	}
}
