package admin

import (
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

func TestEveryPresetHasLinesForItsClients(t *testing.T) {
	t.Parallel()
	const base, key = "https://agents.example.com", "till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2"
	for _, preset := range append(upstream.Names(), "") {
		texts := clientTexts(wire.UpstreamInfo{Name: "u", Preset: preset}, base, key)
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
		shell := strings.Join(environment(wire.UpstreamInfo{Name: "u", Preset: preset}, base, key).lines(), "\n")
		if !strings.Contains(all, shell) {
			t.Errorf("%s does not have the lines of `env`:\n%s", preset, shell)
		}
	}
}

// TestLinesForClientsAreThoseOfTheDocumentation holds the dashboard and
// docs/clients.md together.
func TestLinesForClientsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, preset := range []string{"openai", "anthropic", "gemini", "mistral", "cohere", "groq", "together"} {
		for _, c := range clientTexts(wire.UpstreamInfo{Name: preset, Preset: preset}, "https://agents.example.com", "till_sk_…") {
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

func TestClientsOfAnUnknownUpstreamAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.do("GET", "/upstreams/nothing/clients", "")
	if _, message := a.fault(t); a.status != 404 || !strings.Contains(message, "nothing is not configured") {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = w.do("GET", "/upstreams/openai/clients", "")
	if a.status != 200 || !strings.Contains(a.body, "OPENAI_API_KEY=till_sk_...") || !strings.Contains(a.body, w.base) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
