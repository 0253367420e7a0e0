package till

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// TestAnUpstreamsOptionThatIsWrongSaysWhere wants of each error the line, what
// stands there, and what may.
func TestAnUpstreamsOptionThatIsWrongSaysWhere(t *testing.T) {
	t.Parallel()
	tried := make(map[string]bool)
	for _, test := range []struct{ line, value, fix string }{
		{"to", "to", "addresses, such as https"},
		{"to ftp://a.example", `"ftp://a.example"`, "https://host[:port][/path]"},
		{"credential", "credential", "such as {env.OPENAI_API_KEY}"},
		{"auth header", "auth", "header NAME [SCHEME]"},
		{"allow GET", "allow", "such as: allow GET /repos/*"},
		{"upgrades", "upgrades", "such as: upgrades /ws/*"},
		{"upgrades ws", `"ws"`, `begin with "/"`},
		{"cors app.example.com", `"app.example.com"`, "such as https://app.example.com"},
		{"cookies maybe", `"maybe"`, "pass or drop"},
		{"redirects drop a.example", `"drop a.example"`, "such as: redirects pass codeload.github.com"},
		{"redirects pass", `"pass"`, "such as: redirects pass codeload.github.com"},
		{"redirects pass https://a.example/x", `"https://a.example/x"`, "takes hosts such as"},
		{"redirects pass {env.HOST}", `"{env.HOST}"`, "takes hosts such as"},
		{"redirects pass *.com", "*.com", "two names after the *"},
		{"output_field", "output_field", "max_tokens, max_completion_tokens, both"},
		{"output_field tokens", `"tokens"`, "max_tokens, max_completion_tokens, both"},
		{"output_field both both", "output_field", "may be given once"},
		{"output_field both\noutput_field max_tokens", "output_field", "may be given once"},
		{"input_extra -1", `"-1"`, "number of tokens"},
		{"input_extra 1.5", `"1.5"`, "number of tokens"},
		{"input_extra 2M", "2000000", "from 0 to 1000000"},
		{"input_extra 0\ninput_extra 300", "input_extra", "may be given once"},
		{"multiply 0", `"0"`, "above 0 and at most 10"},
		{"multiply -1.1", `"-1.1"`, "such as 1.1"},
		{"multiply 11", `"11"`, "at most 10"},
		{"multiply 10.0001", `"10.0001"`, "at most 10"},
		{"multiply 1e3", `"1e3"`, "such as 1.1"},
		{"multiply 11/10", `"11/10"`, "such as 1.1"},
		{"multiply 110%", `"110%"`, "such as 1.1"},
		{"multiply NaN", `"NaN"`, "such as 1.1"},
		{"multiply 1.1\nmultiply 1.1", "multiply", "may be given once"},
		{"ask_usage no", `"no"`, `"on" or "off"`},
		{"ask_usage", "ask_usage", "on or off"},
		{"ask_usage off\nask_usage off", "ask_usage", "may be given once"},
		{"service_tier priority", `"priority"`, "one of default, auto"},
		{"service_tier", "service_tier", "default or auto"},
		{"service_tier auto\nservice_tier auto", "service_tier", "may be given once"},
		{"count_exact never", `"never"`, `"on" or "off"`},
		{"free GET", "free", "such as: free GET /mcp"},
		{"free get /mcp", `"get"`, "capitals"},
		{"free GET mcp", `"mcp"`, `begin with "/"`},
		{"allow_field", "allow_field", "such as"},
		{"allow_field Max_Tokens", "Max_Tokens", "leave it out"},
		{"allow_field n_predict", "n_predict", "leave it out"},
		{`allow_field "a b"`, `"a b"`, "letters, digits"},
		{`allow_field "\x1b[31m"`, `\\x1b`, "letters, digits"},
		{"allow_field " + strings.Repeat("x", 65), strings.Repeat("x", 65), "1 to 64"},
		{"allow_field" + strings.Repeat(" f", 65), "65", "at most 64"},
		{"strip_tools", "strip_tools", "such as"},
		{"strip_tools function", "function", "leave it out"},
		{"strip_tools function_declarations", "function_declarations", "leave it out"},
		{`strip_tools "a b"`, `"a b"`, "letters, digits"},
		{"strip_tools" + strings.Repeat(" f", 65), "65", "at most 64"},
		{"drain soon", `"soon"`, "such as 5s"},
		{"drain 2m", "2m0s", "from 0s to 1m"},
		{"drain -1s", "-1s", "from 0s to 1m"},
		{"drain 1s\ndrain 1s", "drain", "may be given once"},
	} {
		option, _, _ := strings.Cut(test.line, " ")
		tried[option] = true
		got := adapt(t, withOption(test.line))
		last := "Caddyfile:" + string(rune('4'+strings.Count(test.line, "\n")))
		for _, want := range []string{test.value, test.fix, last} {
			if strings.HasPrefix(got, "{") || !strings.Contains(got, want) {
				t.Errorf("%s: %s\nwant %s", test.line, strings.TrimSpace(got), want)
			}
		}
	}
	for _, option := range upstreamOptions {
		if !tried[option] {
			t.Errorf("no wrong use of %s is tried", option)
		}
	}
}

// TestExamplesInErrorsAreValid: copying the example of an error must not lead to the
// next one.
func TestExamplesInErrorsAreValid(t *testing.T) {
	t.Parallel()
	suggested := regexp.MustCompile(`such as: ([^;]*?)(?:; got .*)?, at `)
	found := 0
	for _, option := range upstreamOptions {
		m := suggested.FindStringSubmatch(adapt(t, withOption(option)))
		if m == nil {
			continue
		}
		found++
		if got := adapt(t, withOption(m[1])); !strings.HasPrefix(got, "{") || !strings.HasPrefix(m[1], option+" ") {
			t.Errorf("%s: %s", m[1], got)
		}
		name := strings.Fields(m[1])[1]
		if preset, _ := upstream.Lookup("openai"); option == "allow_field" {
			if _, err := preset.Estimate(&upstream.Call{Method: "POST", Path: "/v1/chat/completions", Body: []byte(`{"model":"gpt-5","messages":[],"` + name + `":1}`)}); !errors.As(err, new(upstream.UnknownFieldError)) {
				t.Errorf("%s is known: %v", name, err)
			}
		}
	}
	if found < 6 {
		t.Errorf("only %d examples were found", found)
	}
}

// withOption is a Caddyfile with an option of an upstream, in line 4.
func withOption(option string) string {
	return "{\n\ttill {\n\t\tupstream openai {\n" + option + "\n\t\t}\n\t}\n}\n:80 {\n\ttill\n}\n"
}

func TestAPriceLineMayHaveFiveWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"price openai/x 1":             "price takes a model",
		"price openai/x 1 2 3 4 5":     "cache writes",
		"price openai/x 1 2 0.1 $x":    `got "$x"`,
		"price openai/x 1 2 0.1 -1.25": `got "-1.25"`,
		"price mine/x 1 2 0.1 1.25":    "PRESET/MODEL",
	} {
		if got := adapt(t, "{\n\ttill {\n"+line+"\n\t}\n}\n:80 {\n\ttill\n}\n"); !strings.Contains(got, want) || !strings.Contains(got, "Caddyfile:3") {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}
