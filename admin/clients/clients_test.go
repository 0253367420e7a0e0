package clients

import (
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

func TestEveryPresetHasLinesForItsClients(t *testing.T) {
	t.Parallel()
	const base, key = "https://agents.example.com", "till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2"
	for _, preset := range append(upstream.Names(), "") {
		texts := Of(wire.UpstreamInfo{Name: "u", Preset: preset}, base, key)
		all := ""
		for _, c := range texts {
			if c.Name == "" || len(c.Lines) == 0 {
				t.Errorf("%s: %+v", preset, c)
			}
			all += strings.Join(c.Lines, "\n") + "\n"
		}
		if !strings.Contains(all, key) || !strings.Contains(all, base) || !strings.Contains(all, "curl ") {
			t.Errorf("%s lacks the key, the address or curl:\n%s", preset, all)
		}
		shell := strings.Join(Environment(wire.UpstreamInfo{Name: "u", Preset: preset}, base, key).Lines(), "\n")
		if !strings.Contains(all, shell) {
			t.Errorf("%s does not have the lines of `env`:\n%s", preset, shell)
		}
	}
}

// TestLinesForClientsAreThoseOfTheDocumentation holds the dashboard and
// docs/clients.md together.
func TestLinesForClientsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, preset := range []string{"openai", "anthropic", "gemini", "mistral", "cohere", "groq", "together"} {
		for _, c := range Of(wire.UpstreamInfo{Name: preset, Preset: preset}, "https://agents.example.com", "till_sk_…") {
			if c.Name == "curl" {
				continue // tried as pasted by other tests
			}
			for _, line := range c.Lines {
				line = strings.Trim(strings.TrimPrefix(line, "export "), " '")
				if line = strings.ReplaceAll(line, "'", ""); strings.HasPrefix(line, "unset ") || strings.HasPrefix(line, "#") || line == "GOOGLE_API_KEY=till_sk_…" ||
					strings.HasPrefix(line, "MISTRAL_API_KEY=") || strings.HasPrefix(line, "CO_API_KEY=") {
					continue
				}
				if !strings.Contains(doc, line) {
					t.Errorf("docs/clients.md does not say %q for %s", line, c.Name)
				}
			}
		}
	}
}

func TestWordsForTheShellAreQuoted(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"http://127.0.0.1:8080/v1": "http://127.0.0.1:8080/v1",
		"":                         "''",
		"a b":                      "'a b'",
		"$(reboot)":                "'$(reboot)'",
		"it's":                     `'it'\''s'`,
		"a&b;c":                    "'a&b;c'",
	} {
		admintest.Equal(t, word, Quote(word), want)
	}
}

func TestSamplesFitAndWorkAsPasted(t *testing.T) {
	t.Parallel()
	const key = "till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2"
	for preset, want := range map[string]string{
		"openai": `curl http://127.0.0.1:8080/v1/chat/completions \
  -H 'Authorization: Bearer ` + key + `' \
  -H 'Content-Type: application/json' \
  -d '{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hi"}]}'`,
		"anthropic": `curl http://127.0.0.1:8080/v1/messages \
  -H 'x-api-key: ` + key + `' \
  -H 'anthropic-version: 2023-06-01' \
  -H 'Content-Type: application/json' \
  -d '{"model":"claude-haiku-5-5","max_tokens":64,
    "messages":[{"role":"user","content":"Hi"}]}'`,
		"groq": `curl http://127.0.0.1:8080/openai/v1/models \
  -H 'Authorization: Bearer ` + key + `'`,
		"": `curl http://127.0.0.1:8080/ \
  -H 'Authorization: Bearer ` + key + `'`,
	} {
		got := strings.Join(Curl(wire.UpstreamInfo{Name: "u", Preset: preset}, "http://127.0.0.1:8080", key), "\n")
		admintest.Equal(t, preset, got, want)
		for line := range strings.Lines(got) {
			if len(line) > 81 {
				t.Errorf("a line is %d wide: %s", len(line), line)
			}
		}
	}
}
