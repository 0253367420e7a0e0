package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

// judgeByOracle holds an estimate against what encoding/json reads: every
// member that some reader could take for a bound is that bound, whole, and not
// above what was estimated.
func judgeByOracle(t *testing.T, body []byte, e *Estimate) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		t.Fatalf("%q: accepted, and encoding/json says %v", body, err)
	}
	seen := make(map[string]bool)
	text := 0
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		text += len(value)
		folded := strings.ReplaceAll(strings.ToLower(name.(string)), "_", "")
		if seen[folded] {
			t.Fatalf("%q: %q stands twice", body, name)
		}
		seen[folded] = true
		if string(value) == "null" {
			continue
		}
		bounds := folded == "maxtokens" || folded == "maxcompletiontokens" || folded == "maxoutputtokens"
		if !bounds && folded != "n" && folded != "bestof" {
			continue
		}
		if string(value) == "-1" && bounds && (name == e.field || name == e.also) {
			if e.Stated >= 0 {
				t.Fatalf("%q: without end, and %+v was estimated", body, e)
			}
			continue
		}
		whole, rest, _ := strings.Cut(string(value), ".")
		n, err := strconv.ParseInt(whole, 10, 64)
		if err != nil || n < 0 || strings.Trim(rest, "0") != "" {
			t.Fatalf("%q: %s is %s, and was accepted", body, name, value)
		}
		if (name == e.field || name == e.also) && n > 0 && !e.endless && e.Stated < n || folded == "n" && e.Answers < n {
			t.Fatalf("%q: %s is %d, and %+v was estimated", body, name, n, e)
		}
	}
	if _, err := d.Token(); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if d.More() {
		t.Fatalf("%q: something follows", body)
	}
	if !strings.Contains(string(body), "data:") && !strings.Contains(string(body), `"data"`) && !strings.Contains(string(body), "file_data") && e.Input < int64(text) {
		t.Fatalf("%q: input of %d, for %d bytes", body, e.Input, text)
	}
}

// TestHostileFieldsChangeNoBound sends what two readers could read in two ways, on
// every endpoint that states a bound. Each is refused, or the largest of its possible
// meanings counts.
func TestHostileFieldsChangeNoBound(t *testing.T) {
	t.Parallel()
	for _, to := range []struct{ preset, path, field, frame string }{
		{"openai", "/v1/chat/completions", "max_completion_tokens", `{"model":"m","messages":[],%s}`},
		{"openai", "/v1/chat/completions", "max_tokens", `{"model":"m","messages":[],%s}`},
		{"openai", "/v1/completions", "max_tokens", `{"model":"m","prompt":"x",%s}`},
		{"openai", "/v1/responses", "max_output_tokens", `{"model":"m","input":"x",%s}`},
		{"anthropic", "/v1/messages", "max_tokens", `{"model":"m","messages":[],%s}`},
		{"mistral", "/v1/chat/completions", "max_tokens", `{"model":"m","messages":[],%s}`},
		{"cohere", "/v2/chat", "max_tokens", `{"model":"m","messages":[],%s}`},
		{"gemini", "/v1beta/models/m:generateContent", "maxOutputTokens", `{"contents":[],"generationConfig":{%s}}`},
		{"gemini", "/v1beta/models/m:streamGenerateContent", "maxOutputTokens", `{"contents":[],"generation_config":{%s}}`},
		{"ollama", "/api/chat", "num_predict", `{"model":"m","messages":[{}],"options":{%s}}`},
		{"ollama", "/v1/chat/completions", "max_tokens", `{"model":"m","messages":[],%s}`},
	} {
		f := to.field
		upper, snake, escaped := strings.ToUpper(f), strings.ReplaceAll(f, "_", ""), fmt.Sprintf(`\u%04x%s`, f[0], f[1:])
		for name, test := range map[string]struct {
			members string
			stated  int64 // -2: refused
		}{
			"as it should be":                    {`"` + f + `":100`, 100},
			"in capitals beside":                 {`"` + f + `":1,"` + upper + `":100000`, -2},
			"in capitals before":                 {`"` + upper + `":100000,"` + f + `":1`, -2},
			"in capitals alone":                  {`"` + upper + `":1`, -2},
			"without its underscores beside":     {`"` + f + `":1,"x_` + snake + `":5`, -2},
			"twice":                              {`"` + f + `":1,"` + f + `":100000`, -2},
			"twice, and null":                    {`"` + f + `":1,"` + f + `":null`, -2},
			"with an escape":                     {`"` + escaped + `":100`, 100},
			"with an escape, twice":              {`"` + f + `":1,"` + escaped + `":100000`, -2},
			"with a letter that folds to it":     {`"` + f + `":1,"` + strings.ReplaceAll(f, "k", "\u212a") + `x":5`, -2},
			"huge":                               {`"` + f + `":99999999999999999999999999`, -2},
			"as large as an int64":               {`"` + f + `":9223372036854775807`, -2},
			"half":                               {`"` + f + `":1.5`, -2},
			"whole, with a point":                {`"` + f + `":100.0`, 100}, // whose language has one kind of number
			"whole, with a point alone":          {`"` + f + `":100.`, -2},
			"whole, but for little":              {`"` + f + `":100.000000000000000001`, -2},
			"with an exponent":                   {`"` + f + `":1e5`, -2},
			"with a negative exponent":           {`"` + f + `":100000e-5`, -2},
			"text":                               {`"` + f + `":"100000"`, -2},
			"an object":                          {`"` + f + `":{"` + f + `":5}`, -2},
			"a list":                             {`"` + f + `":[100000]`, -2},
			"true":                               {`"` + f + `":true`, -2},
			"not a number":                       {`"` + f + `":NaN`, -2},
			"without end":                        {`"` + f + `":Infinity`, -2},
			"in hexadecimal":                     {`"` + f + `":0x10`, -2},
			"with a zero before":                 {`"` + f + `":0100`, -2},
			"with a plus":                        {`"` + f + `":+100`, -2},
			"nothing":                            {`"` + f + `":null`, -1},
			"a comment":                          {`"` + f + `":1/*00000*/`, -2},
			"something after the request":        {`"` + f + `":1} {"` + f + `":100000`, -2},
			"a comma too much":                   {`"` + f + `":1,`, -2},
			"single quotes":                      {`'` + f + `':1`, -2},
			"a byte that is not UTF-8":           {"\"" + f + "\xff\":100000,\"" + f + "\":1", -2},
			"nested where nobody reads it":       {`"` + f + `":100,"stop":["{\"` + f + `\":1}"]`, 100},
			"very deep, beside":                  {`"` + f + `":100,"stop":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), -2},
			"a NUL in its name":                  {`"` + f + `\u0000":100000,"` + f + `":1`, -2},
			"a name that ends in half an escape": {`"` + f + `\ud800":100000,"` + f + `":1`, -2},
		} {
			if to.preset == "gemini" || to.preset == "ollama" && f == "num_predict" {
				// Within these objects unknown members cost nothing.
				switch name {
				case "without its underscores beside", "with a letter that folds to it", "a byte that is not UTF-8", "a NUL in its name", "a name that ends in half an escape", "something after the request":
					continue
				}
			}
			e, err := estimate(t, to.preset, to.path, fmt.Sprintf(to.frame, test.members))
			switch {
			case test.stated == -2 && err == nil:
				t.Errorf("%s %s, %s: accepted as %+v", to.preset, f, name, e)
			case test.stated == -2 && !errors.Is(err, ErrBody) && !errors.Is(err, ErrNotMeterable):
				t.Errorf("%s %s, %s: %v", to.preset, f, name, err)
			case test.stated != -2 && (err != nil || e.Stated != test.stated):
				t.Errorf("%s %s, %s: %+v, %v; want %d", to.preset, f, name, e, err, test.stated)
			}
		}
		for _, body := range []string{"\ufeff" + fmt.Sprintf(to.frame, `"`+f+`":1`), "", "null", "[]", `"x"`, "{}x", "{", "\x00"} {
			if e, err := estimate(t, to.preset, to.path, body); err == nil {
				t.Errorf("%s: %q was accepted as %+v", to.preset, body, e)
			}
		}
	}
}

// TestZeroAndLessAreNoBound: servers take 0 and negative bounds for none at all.
func TestZeroAndLessAreNoBound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, path, body string
		stated             int64 // -2: refused
	}{
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":0}`, -1},
		{"together", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":0}`, -1},
		{"ollama", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":0}`, -1},
		{"ollama", "/api/chat", `{"model":"m","messages":[{}],"options":{"num_predict":0}}`, -1},
		{"ollama", "/api/generate", `{"model":"m","prompt":"x","options":{"num_predict":-1}}`, -1},
		{"gemini", "/v1beta/models/m:generateContent", `{"contents":[],"generationConfig":{"maxOutputTokens":0}}`, -1},
		{"anthropic", "/v1/messages", `{"model":"m","messages":[],"max_tokens":0}`, 0},
		{"anthropic", "/v1/messages", `{"model":"m","messages":[],"max_tokens":-1}`, -2},
		// llama.cpp and LM Studio say that nothing bounds the answer.
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":-1}`, -1},
		{"together", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":-1}`, -1},
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":-1,"max_completion_tokens":100}`, -1},
		{"together", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":100,"max_completion_tokens":-1}`, -2},
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":-1.0}`, -2},
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":-100}`, -2},
		{"openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":-0}`, -1},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if test.stated == -2 && err == nil || test.stated != -2 && (err != nil || e.Stated != test.stated) {
			t.Errorf("%s: %+v, %v; want %d", test.body, e, err, test.stated)
		}
	}
}

// TestHostileUsageIsNotBelieved: invalid numbers in an answer do not change the valid
// ones.
func TestHostileUsageIsNotBelieved(t *testing.T) {
	t.Parallel()
	const good = `"prompt_tokens":10,"completion_tokens":5`
	for name, test := range map[string]struct {
		answer string
		want   Usage
	}{
		"below zero beside":          {`{"usage":{` + good + `,"total_tokens":-1}}`, Usage{10, -1, -1, -1, 5, -1}},
		"twice, the larger counts":   {`{"usage":{` + good + `,"completion_tokens":1}}`, Usage{10, -1, -1, -1, 5, -1}},
		"usage twice":                {`{"usage":{` + good + `},"usage":{"prompt_tokens":1,"completion_tokens":1}}`, Usage{10, -1, -1, -1, 5, -1}},
		"in capitals":                {`{"USAGE":{` + good + `}}`, unreported},
		"text that is no number":     {`{"usage":{"prompt_tokens":"10 or so","completion_tokens":"5"}}`, Usage{-1, -1, -1, -1, 5, -1}},
		"huge":                       {`{"usage":{"prompt_tokens":99999999999999999999,"completion_tokens":5}}`, Usage{-1, -1, -1, -1, 5, -1}},
		"as large as an int64":       {`{"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":9223372036854775807,"total_tokens":9223372036854775807}}`, Usage{1<<63 - 1, -1, -1, -1, 1<<63 - 1, -1}},
		"half":                       {`{"usage":{"prompt_tokens":1.5,"completion_tokens":5}}`, Usage{-1, -1, -1, -1, 5, -1}},
		"a total below the parts":    {`{"usage":{` + good + `,"total_tokens":3}}`, Usage{10, -1, -1, -1, 5, -1}},
		"with escapes":               {`{"\u0075sage":{"prompt\u005ftokens":10,"completion_tokens":5}}`, Usage{10, -1, -1, -1, 5, -1}},
		"with escapes that are none": {`{"\u00usage":{` + good + `}}`, unreported},
		"in what the model said":     {`{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}"}}],"usage":{` + good + `}}`, Usage{10, -1, -1, -1, 5, -1}},
		"in a message of a choice":   {`{"choices":[{"message":{"usage":{"prompt_tokens":1,"completion_tokens":1}}}]}`, unreported},
		"a cost below zero":          {`{"usage":{` + good + `,"cost":-0.5}}`, Usage{10, -1, -1, -1, 5, -1}},
		"a cost beyond reason":       {`{"usage":{` + good + `,"cost":1e300}}`, Usage{10, -1, -1, -1, 5, -1}},
		"more cached than input":     {`{"usage":{` + good + `,"prompt_tokens_details":{"cached_tokens":1000}}}`, Usage{1010, 1000, -1, -1, 5, -1}},
		"as much cached as input":    {`{"usage":{` + good + `,"prompt_tokens_details":{"cached_tokens":10}}}`, Usage{10, 10, -1, -1, 5, -1}},
		"cached beyond all numbers":  {`{"usage":{` + good + `,"prompt_tokens_details":{"cached_tokens":9223372036854775807}}}`, Usage{1<<63 - 1, 1<<63 - 1, -1, -1, 5, -1}},
		"cached, and no input":       {`{"usage":{"prompt_tokens":0,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1000}}}`, Usage{-1, -1, -1, -1, 5, -1}},
		// The output that only a total shows is not taken for what was read from a cache.
		"a total with no output":  {`{"usage":{"prompt_tokens":100,"total_tokens":150,"prompt_tokens_details":{"cached_tokens":300}}}`, Usage{400, 300, -1, -1, 50, -1}},
		"a larger one":            {`{"usage":{"prompt_tokens":100,"total_tokens":600,"prompt_tokens_details":{"cached_tokens":300}}}`, Usage{400, 300, -1, -1, 500, -1}},
		"a total above the parts": {`{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":650,"prompt_tokens_details":{"cached_tokens":300}}}`, Usage{400, 300, -1, -1, 550, -1}},
		"a total between those":   {`{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":300,"prompt_tokens_details":{"cached_tokens":300}}}`, Usage{400, 300, -1, -1, 200, -1}},
		"a total with the cached": {`{"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":450,"prompt_tokens_details":{"cached_tokens":300}}}`, Usage{400, 300, -1, -1, 50, -1}},
		"embeddings sent back":    {`{"metadata":{"embedding":"x"},"usage":{"prompt_tokens":10}}`, Usage{10, -1, -1, -1, -1, -1}},
		"embeddings in a tool":    {`{"tools":[{"parameters":{"embedding":{"type":"string"}}}],"usage":{"total_tokens":15}}`, Usage{15, -1, -1, -1, -1, -1}},
		"very deep":               {`{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `,"usage":{` + good + `}}`, Usage{10, -1, -1, -1, 5, -1}},
		"a BOM":                   {"\ufeff" + `{"usage":{` + good + `}}`, Usage{10, -1, -1, -1, 5, -1}},
		"a second text after it":  {`{"usage":{` + good + `}} {"usage":{"prompt_tokens":1,"completion_tokens":900}}`, Usage{10, -1, -1, -1, 900, -1}},
		"something else after it": {`{"usage":{` + good + `}} x {"usage":{"prompt_tokens":1,"completion_tokens":900}}`, Usage{10, -1, -1, -1, 5, -1}},
	} {
		for _, n := range []int{1, 13, 1 << 30} {
			if got := metered(test.answer, false, n); got != test.want {
				t.Errorf("%s, by %d bytes: %+v, want %+v", name, n, got, test.want)
			}
		}
	}
	price := priced(t, "openai", "gpt-5-mini", pricedAt)
	// Whatever is reported as cached, no more than the input costs less.
	if cost, least := price.Cost(Usage{10, 1000, 1000, 1000, 5, -1}, 1000), price.Cost(Usage{10, 10, 0, 0, 5, -1}, 1000); cost != least {
		t.Errorf("more cached than there was costs %d, all of it %d", cost, least)
	}
}

// TestABoundInAFieldOfAnotherEndpointLowersNothing: in case the vendor does know the
// field, what it allows is held, or is lowered with the rest.
func TestABoundInAFieldOfAnotherEndpointLowersNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, path, body string
		stated             int64
		fitted             string
	}{
		{"mistral", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":1,"max_completion_tokens":100000}`, 100000,
			`{"model":"m","messages":[],"max_tokens":300,"max_completion_tokens":300}`},
		{"together", "/v1/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":100000}`, -1,
			`{"max_tokens":300,"model":"m","messages":[],"max_completion_tokens":300}`},
		{"deepseek", "/v1/chat/completions", `{"model":"m","messages":[],"max_output_tokens":1,"max_tokens":50}`, 50,
			`{"model":"m","messages":[],"max_output_tokens":1,"max_tokens":300}`},
		{"anthropic", "/v1/messages", `{"model":"m","messages":[],"max_tokens":5,"max_output_tokens":6000}`, 6000,
			`{"model":"m","messages":[],"max_tokens":300,"max_output_tokens":300}`},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil || e.Stated != test.stated {
			t.Errorf("%s: %+v, %v; want %d", test.body, e, err, test.stated)
			continue
		}
		if got := string(asSent(e, 300)); got != test.fitted {
			t.Errorf("%s:\n got %s\nwant %s", test.body, got, test.fitted)
		}
	}
}

// TestAnAnswersUseIsNotLeftOut: Google's APIs leave parts of an answer out when they
// are asked to, and thoughts cost more than the rest.
func TestAnAnswersUseIsNotLeftOut(t *testing.T) {
	t.Parallel()
	for query, good := range map[string]bool{
		"": true, "alt=sse": true, "alt=json&prettyPrint=false": true, "key=x&alt=sse": true,
		"fields=candidates,usageMetadata.promptTokenCount,usageMetadata.candidatesTokenCount": false,
		"alt=sse&$fields=candidates": false, "%66ields=candidates": false, "alt=sse&alt=media": false, "alt=proto": false,
		"callback=x": false, "alt=sse&x": false,
	} {
		for path, body := range map[string]string{
			"/v1beta/models/m:streamGenerateContent": `{"contents":[]}`,
			"/v1beta/openai/chat/completions":        `{"model":"m","messages":[]}`,
		} {
			_, err := preset(t, "gemini").Estimate(&Call{Method: "POST", Path: path, Query: query, Body: []byte(body)})
			if good && err != nil || !good && !errors.Is(err, ErrNotMeterable) {
				t.Errorf("%s?%s: %v", path, query, err)
			}
		}
	}
	if _, err := preset(t, "anthropic").Estimate(&Call{Method: "POST", Path: "/v1/messages", Query: "beta=true", Body: []byte(`{"model":"m","messages":[],"max_tokens":5}`)}); err != nil {
		t.Errorf("Claude Code's parameter: %v", err)
	}
}

// TestAModelInThePathIsNoOtherThanTheBodys: where both are named, servers
// take either.
func TestAModelInThePathIsNoOtherThanTheBodys(t *testing.T) {
	t.Parallel()
	for path, good := range map[string]bool{
		"/v1/completions": true, "/v1/engines/m/completions": true, "/v1/engines/dear/completions": false,
		"/v1/openai/deployments/dear/chat/completions": false,
	} {
		e, err := estimate(t, "openai", path, `{"model":"m","prompt":"x","max_tokens":5}`)
		if good && err != nil || !good && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %+v, %v", path, e, err)
		}
	}
	models, named, err := preset(t, "openai").Models(&Call{Method: "POST", Path: "/v1/engines/dear/completions", Body: []byte(`{"model":"m"}`)})
	if err != nil || !named || strings.Join(models, " ") != "dear m" {
		t.Errorf("%q, %v, %v", models, named, err)
	}
	if e, err := estimate(t, "gemini", "/v1beta/dynamic/x:generateContent", `{"model":"m","contents":[]}`); !errors.Is(err, ErrNotMeterable) {
		t.Errorf("a path of no model: %+v, %v", e, err)
	}
}

// TestAStreamThatSaysItIsJSONIsMeasuredAsAStream, and not by its first event alone:
// its first bytes show what it is.
func TestAStreamThatSaysItIsJSONIsMeasuredAsAStream(t *testing.T) {
	t.Parallel()
	const begin = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n"
	const end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":7}}\n\n"
	for _, n := range []int{1, 5, 1 << 20} {
		for answer, final := range map[string]bool{begin: false, begin + end: true, strings.TrimPrefix(begin+end, "event: message_start\n"): true} {
			m := metering(answer, false, n)
			if m.Final() != final || m.Usage().Input != 10 || final && m.Usage().Output != 7 {
				t.Errorf("%q by %d bytes: %+v, final %v", answer, n, m.Usage(), m.Final())
			}
		}
	}
}

// TestManyMembersAreJudgedInTime: the largest body that is read, of nothing but
// members, delays no other request.
func TestManyMembersAreJudgedInTime(t *testing.T) {
	t.Parallel()
	judging := func(members int) time.Duration {
		var b strings.Builder
		b.WriteString(`{"model":"m","messages":[],"tools":[{"type":"function"`)
		for i := range members {
			fmt.Fprintf(&b, `,"x%d":1`, i)
		}
		b.WriteString(`,"x7":1}]}`)
		best := time.Duration(math.MaxInt64)
		for range 3 {
			best = min(best, work(t, func() {
				if _, err := estimate(t, "openai", "/v1/chat/completions", b.String()); !errors.Is(err, ErrBody) {
					t.Errorf("the last of many fields stands twice: %v", err)
				}
			}))
		}
		return best
	}
	// 64 times as many take some 64 times as long, and not 4,096 times: between the
	// two there is room for caches that are cold.
	few, many := judging(2_000), judging(128_000)
	if many > 1000*few {
		t.Errorf("2,000 members took %s, 128,000 took %s", few, many)
	}
}
