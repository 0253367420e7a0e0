package upstream

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestAReferenceToTheVendorsOwnToolsIsHeldAsThose: their definitions are not in the
// request, and each reference puts one of them into the prompt.
func TestAReferenceToTheVendorsOwnToolsIsHeldAsThose(t *testing.T) {
	t.Parallel()
	const ask = `{"role":"user","content":"hi"}`
	body := func(messages ...string) string {
		return `{"model":"m","max_tokens":5,"tools":[{"type":"browser_toolset_20260801","name":"browser","defer_loading":true}],"messages":[` + strings.Join(messages, ",") + `]}`
	}
	result := `{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[` + strings.Repeat(`{"type":"tool_reference","tool_name":"browser"},`, 9) + `{"type":"tool_reference","tool_name":"browser"}]}]}`
	e, err := estimate(t, "anthropic", "/v1/messages", body(ask, result))
	if err != nil {
		t.Fatal(err)
	}
	if e.Input < 10*toolsetTokens {
		t.Errorf("%d tokens are held for ten references to a family of tools", e.Input)
	}
	m := newRemembering(t)
	r, _ := m.ask("k", "anthropic", "/v1/messages", body(ask))
	m.Learn(r, 15_000, "m", true)
	if again, _ := m.ask("k", "anthropic", "/v1/messages", body(ask, result)); again.Input < 15_000+10*toolsetTokens {
		t.Errorf("%d are foretold for them", again.Input)
	}
}

// TestAPictureThatIsNotThereIsOne: vLLM keeps pictures by the names that clients
// give them, and reads one of them where "image_url" is null
// (docs.vllm.ai/en/latest/features/multimodal_inputs, cached inputs).
func TestAPictureThatIsNotThereIsOne(t *testing.T) {
	t.Parallel()
	for frame, parts := range map[string][]string{
		"chat":     {`{"type":"image_url","image_url":null,"uuid":"x"}`, `{"type":"image_url","uuid":"x"}`, `{"uuid":"x","type":"image_url","image_url":{}}`, `{"type":"image","uuid":"x"}`},
		"messages": {`{"type":"image","source":null}`, `{"type":"image","source":{"type":"text"}}`},
		"output":   {`{"type":"input_image","image_url":null}`, `{"type":"input_image","detail":"high"}`},
	} {
		for _, part := range parts {
			e, err := inFrame(t, frame, part+","+part)
			if err == nil && (e.Input < 2*imageTokens || !e.Pictures || !e.remote) {
				t.Errorf("%s: %s: %d tokens, pictures %v, remote %v", frame, part, e.Input, e.Pictures, e.remote)
			}
			if err != nil && !errors.Is(err, ErrNotMeterable) {
				t.Errorf("%s: %s: %v", frame, part, err)
			}
		}
	}
	for frame, part := range map[string]string{
		"chat":     `{"type":"image_url","image_url":{"url":"https://x","detail":"low"}}`,
		"messages": `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}`,
		"output":   `{"type":"input_image","image_url":"data:image/png;base64,AAAA"}`,
	} {
		if e, err := inFrame(t, frame, part); err != nil || e.Input < imageTokens || e.Input > imageTokens+5000 {
			t.Errorf("%s: %s: %+v, %v", frame, part, e, err)
		}
	}
}

// TestADocumentIsOneHoweverItsAddressIsWritten: Fireworks puts what it reads in one
// into the prompt (docs.fireworks.ai, document inlining).
func TestADocumentIsOneHoweverItsAddressIsWritten(t *testing.T) {
	t.Parallel()
	for _, url := range []string{`https://x/y.pdf#transform=inline`, `https://x/y.pdf\u0023transform=inline`, `https://x/y.pdf\u0023\u0074ransform=inline`, `https:\/\/x\/y.pdf#transform=inline`,
		`https://x/` + strings.Repeat("y", 100) + `.pdf\u0023transform=inline`} {
		for _, part := range []string{`{"type":"image_url","image_url":{"url":"%s"}}`, `{"type":"image_url","image_url":"%s"}`} {
			body := `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[` + fmt.Sprintf(part, url) + `]}]}`
			if e, err := estimate(t, "fireworks", "/inference/v1/chat/completions", body); err != nil || !e.Window {
				t.Errorf("%s: %+v, %v", url, e, err)
			}
		}
	}
}

// TestSoundIsNoPicture, whatever its declared format.
func TestSoundIsNoPicture(t *testing.T) {
	t.Parallel()
	for _, part := range []string{
		`{"input_audio":{"data":"AAAA","format":"image/png"}}`,
		`{"input_audio":{"data":"AAAA","format":"text/plain"}}`,
		`{"type":"input_audio","input_audio":{"format":"image/png","data":"AAAA"}}`,
	} {
		if e, err := inFrame(t, "chat", part); err == nil && !e.Window {
			t.Errorf("%s: %d tokens, and no window is held", part, e.Input)
		}
	}
}

// TestWhatAVendorHasStoredIsNamedByAnyItem whose content is not in the request.
func TestWhatAVendorHasStoredIsNamedByAnyItem(t *testing.T) {
	t.Parallel()
	price, _ := BuiltInPrices().Find("openai", "gpt-5.5", time.Now())
	const longest = 272_000
	for _, test := range []struct {
		members string
		window  bool // only that bounds it
	}{
		{`"input":[{"type":"compaction","id":"cmp_1"}]`, true},
		{`"input":[{"type":"compaction","id":"cmp_1","encrypted_content":""}]`, true},
		{`"input":[{"type":"compaction","id":"cmp_1","encrypted_content":null}]`, true},
		{`"input":[{"type":"context_compaction","id":"cmp_1"}]`, true},
		{`"input":[{"type":"compaction","id":"cmp_1","encrypted_content":"gAAA"}]`, false},
		// A name of no thoughts is that of something else.
		{`"input":[{"type":"reasoning","id":"msg_1","summary":[]}]`, true},
		{`"input":[{"type":"reasoning","id":"cmp_1","summary":[]}]`, true},
		{`"input":[{"type":"reasoning","id":"rs_1","id":"msg_1","summary":[]}]`, true},
		{`"input":[{"type":"reasoning","id":["msg_1"],"summary":[]}]`, true},
		{`"input":[{"type":"reasoning","id":"rs_1","summary":[]}]`, false},
		{`"input":[{"type":"reasoning","summary":[]}]`, false},
		// Items that do not stand in a list of input.
		{`"input":"x","instructions":[{"type":"reasoning","id":"msg_1","summary":[]}]`, true},
		{`"input":"x","instructions":[{"type":"item_reference","id":"msg_1"}]`, true},
		{`"input":{"type":"reasoning","id":"msg_1","summary":[]}`, true},
		{`"input":{"id":"msg_1"}`, true},
		{`"input":"x","instructions":[{"role":"developer","content":"x"}]`, false},
	} {
		e, err := estimate(t, "openai", "/v1/responses", `{"model":"gpt-5.5",`+test.members+`}`)
		if err != nil {
			if !test.window || !errors.Is(err, ErrNotMeterable) {
				t.Errorf("%s: %v", test.members, err)
			}
			continue
		}
		m := newRemembering(t)
		n, ok := m.Earlier("k", "u", preset(t, "openai"), e).Bound(e.Input, price, longest)
		if !ok || n >= price.Context != test.window {
			t.Errorf("%s: %d tokens, %v", test.members, n, ok)
		}
	}
}

// TestAnItemThatIsSentAgainIsWhatWasSent: a vendor may store it under its id, in
// place of what the id stood for.
func TestAnItemThatIsSentAgainIsWhatWasSent(t *testing.T) {
	t.Parallel()
	price, _ := BuiltInPrices().Find("openai", "gpt-5.5", time.Now())
	long := strings.Repeat("word ", 10_000)
	const ask = `{"role":"user","content":"hi"}`
	const reference = `{"type":"item_reference","id":"msg_1"}`
	for name, anew := range map[string]string{
		"a message":           `{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"` + long + `"}]}`,
		"without its type":    `{"id":"msg_1","role":"assistant","content":"` + long + `"}`,
		"its name at the end": `{"role":"assistant","content":"` + long + `","id":"msg_1"}`,
		"escaped":             `{"role":"assistant","content":"` + long + `","i\u0064":"msg\u005f1"}`,
	} {
		m := newRemembering(t)
		m.gives("k", `"input":[`+ask+`]`, givenAnswer)
		p := preset(t, "openai")
		body := func(items string) *Call {
			return &Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(`{"model":"gpt-5.5","input":[` + items + `]}`)}
		}
		asks := func(items string) (*Recall, int64) {
			c := body(items)
			e, err := p.Estimate(c)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			earlier := m.Earlier("k", "u", p, e)
			n, _ := earlier.Bound(e.Input, price, 272_000)
			return m.Recall("k", "u", p, c, e), n
		}
		before, small := asks(ask + "," + reference + "," + ask)
		if small > 2000 || before == nil {
			t.Fatalf("%s: %d tokens before", name, small)
		}
		m.Learn(before, 700, "gpt-5.5", true)
		if again, _ := asks(ask + "," + reference + "," + ask + "," + ask); again == nil || again.Input < 700 || again.Input > 2000 {
			t.Fatalf("%s: foretold are %+v", name, again)
		}
		asks(ask + "," + anew)
		after, n := asks(ask + "," + reference + "," + ask + "," + ask)
		if n < int64(len(long)) {
			t.Errorf("%s: %d tokens are held for it", name, n)
		}
		if after != nil && after.Input >= 0 && after.Input < int64(len(long)) {
			t.Errorf("%s: %d are foretold", name, after.Input)
		}
		if _, n := asks(`{"type":"item_reference","id":"rs_1"}`); n > 2000 {
			t.Errorf("%s: its thoughts have %d tokens", name, n)
		}
	}
}

// TestAPictureUnderAnItemsNameIsOne checks that such an item counts, and costs, as a
// picture.
func TestAPictureUnderAnItemsNameIsOne(t *testing.T) {
	t.Parallel()
	price, _ := BuiltInPrices().Find("openai", "gpt-5.5", time.Now())
	const reference = `"input":[{"type":"item_reference","id":"msg_1"}]`
	for part, window := range map[string]bool{
		`{"type":"input_image","image_url":"data:image/png;base64,AAAA"}`:                         false,
		`{"type":"input_file","filename":"x.pdf","file_data":"data:application/pdf;base64,AAAA"}`: true,
	} {
		m := newRemembering(t)
		m.gives("k", `"input":"hi"`, givenAnswer)
		if r, e := m.responses("k", "u", "gpt-5.5", reference); r.pictures || r.media || e.Pictures {
			t.Fatalf("%+v before", r)
		}
		m.responses("k", "u", "gpt-5.5", `"input":[{"id":"msg_1","role":"user","content":[`+part+`]}]`)
		r, e := m.responses("k", "u", "gpt-5.5", reference)
		n, _ := r.Bound(e.Input, price, 272_000)
		if n < imageTokens || window && n < price.Context || !e.Pictures || !e.Media {
			t.Errorf("%s: %d tokens, pictures %v, media %v", part, n, e.Pictures, e.Media)
		}
	}
}

// TestNoKeyFillsTheMemoryByWhatItSends checks the same for an upstream that repeats
// itself.
func TestNoKeyFillsTheMemoryByWhatItSends(t *testing.T) {
	t.Parallel()
	m := newRemembering(t)
	for i := range perKeyIDs {
		m.gives("k", `"input":"hi"`, givenAnswer)
		m.responses("k", "u", "gpt-5.5", fmt.Sprintf(`"input":[{"id":"msg_1","role":"assistant","content":%q}]`, strings.Repeat("x", 1000+i)))
	}
	known := m.answers.keys["k"].Value.(*keyAnswers)
	if n := len(known.all); n > perKeyIDs || m.answers.total != len(known.byID) {
		t.Errorf("%d answers are kept, and %d ids of %d", n, len(known.byID), m.answers.total)
	}
}

// TestOnlyWhatIsListedIsUnbilled covers all paths that are made of the same words.
func TestOnlyWhatIsListedIsUnbilled(t *testing.T) {
	t.Parallel()
	listed := map[string]*regexp.Regexp{
		"openai":     regexp.MustCompile(`^(POST /v1/moderations|POST /v1/responses/[^/]+/cancel|(GET|DELETE) /v1/(responses|chat/completions)/.+|(GET|HEAD|OPTIONS) .*/models/?.*)$`),
		"xai":        regexp.MustCompile(`^((GET|DELETE) /v1/responses/.+|(GET|HEAD|OPTIONS) .*/models/?.*)$`),
		"openrouter": regexp.MustCompile(`^(GET /api/v1/generation|(GET|HEAD|OPTIONS) .*/models/?.*)$`),
	}
	words := []string{"responses", "cancel", "chat", "completions", "moderations", "generation", "x", "Responses", "models"}
	for name, allowed := range listed {
		p := preset(t, name)
		unbilled := 0
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "post"} {
			var try func(path string, depth int)
			try = func(path string, depth int) {
				for _, ending := range []string{"", "/"} {
					e, err := p.Estimate(&Call{Method: method, Path: path + ending, ContentType: "application/json", Body: []byte(`{"model":"m"}`)})
					if e == nil && err == nil {
						unbilled++
						if !allowed.MatchString(method + " " + path + ending) {
							t.Errorf("%s: %s %s is unbilled", name, method, path+ending)
						}
					}
				}
				if depth == 0 {
					return
				}
				for _, word := range words {
					try(path+"/"+word, depth-1)
				}
			}
			try(p.Prefix, 3)
		}
		if unbilled == 0 {
			t.Errorf("%s: nothing is unbilled", name)
		}
	}
}
