package upstream

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/scope"
)

// everyVersion are what clients write before a path: what the preset knows, and what
// vendors call versions.
func everyVersion(p *Preset) []string {
	versions := append([]string{"", p.Prefix}, p.Versions...)
	return append(versions, "/v1", "/v2", "/v1alpha", "/v1beta", "/v1beta1", "/v1main", "/api/v1", "/openai/v1", "/inference/v1",
		"/v1/openai", "/v1beta/openai", "/anthropic/v1", "/compatibility/v1", "/v1/v1", "/v1/v2", "/V1", "/v1;x", "/v1;x=1;y/openai")
}

// spellings are the ways to write a path that some server reads as that path.
func spellings(path string) []string {
	all := []string{path, path + "/", strings.ToUpper(path), path + ";x", path + ";x=1/", path + ";/"}
	for i := range path {
		if i > 0 && path[i] == '/' {
			all = append(all, path[:i]+";x"+path[i:], path[:i]+"%3bx"+path[i:])
		}
	}
	return append(all, fmt.Sprintf("%s%%%02x", path[:len(path)-1], path[len(path)-1]), fmt.Sprintf("/%%%02X%s", path[1], path[2:]))
}

// TestWhatIsDeniedIsDeniedBelowEveryVersion, in every spelling: all rules of all
// presets.
func TestWhatIsDeniedIsDeniedBelowEveryVersion(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, p := range All() {
		for i, list := range [2]scope.PathRules{p.Administrative, p.Asynchronous} {
		rules:
			for _, rule := range list {
				methods := []string{rule.Method}
				if rule.Method == "*" {
					methods = []string{"post"}
				}
				for _, version := range everyVersion(p) {
					for _, spelled := range spellings(version + strings.ReplaceAll(rule.Pattern, "*", "a")) {
						clean, err := scope.CleanPath(spelled)
						if err != nil {
							t.Fatalf("%s: %v", spelled, err)
						}
						path := p.Canonical(clean)
						for _, method := range methods {
							tried++
							administrative, asynchronous := p.Denied(method, path)
							if !(i == 0 && administrative || i == 1 && asynchronous) {
								t.Errorf("%s: %s %s, sent as %s, is not denied by %v", p.Name, method, spelled, path, rule)
								continue rules
							}
						}
					}
				}
			}
		}
	}
	if tried < 100_000 {
		t.Errorf("only %d were tried", tried)
	}
}

// TestWhatIsFreeIsFreeBelowEveryVersionOfItsAPI, and nothing else is: no path with
// parameters, in another case, or longer or shorter.
func TestWhatIsFreeIsFreeBelowEveryVersionOfItsAPI(t *testing.T) {
	t.Parallel()
	for _, p := range All() {
		for _, list := range []struct {
			rules scope.PathRules
			holds func(method, path string) bool
		}{{p.Free, p.IsFree}, {p.Unbilled, p.IsUnbilled}} {
			for _, rule := range list.rules {
				below := strings.ReplaceAll(rule.Pattern, "*", "a")
				if below == "/" || slices.Contains(p.Roots, below) {
					continue
				}
				for _, version := range append([]string{p.Prefix}, p.Versions...) {
					path := p.Canonical(version + below)
					if !list.holds(rule.Method, path) {
						t.Errorf("%s: %s %s is not as %v says", p.Name, rule.Method, path, rule)
					}
					for _, other := range []string{"/" + strings.ToUpper(path[1:]), path + ";x", path + "/;x", version + ";x" + below, version + "/x" + below, version + "/v9" + below, "/upload" + path} {
						if other = p.Canonical(other); other != path && !strings.Contains(rule.Pattern, "*") && list.holds(rule.Method, other) {
							t.Errorf("%s: %s %s is taken for what %v says", p.Name, rule.Method, other, rule)
						}
					}
				}
			}
		}
	}
}

// class is what a preset makes of an endpoint.
func class(p *Preset, method, path string) string {
	path = p.Canonical(path)
	administrative, asynchronous := p.Denied(method, path)
	_, err := new(Estimate).endpoint(p, path)
	switch {
	case administrative:
		return "administrative"
	case asynchronous:
		return "asynchronous"
	case p.IsFree(method, path):
		return "free"
	case p.IsUnbilled(method, path):
		return "unbilled"
	case method == "POST" && err == nil:
		return "metered"
	}
	return "plain"
}

// TestTheEndpointsOfTheVendorsSDKsAreOfTheirClass. The list has all endpoints that a
// key may call; a test where the SDKs are installed checks that it is complete.
func TestTheEndpointsOfTheVendorsSDKsAreOfTheirClass(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/callable.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it was read
	lines := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		lines++
		part := strings.Fields(s.Text())
		if len(part) != 4 {
			t.Fatalf("%q has not four parts", s.Text())
		}
		if got := class(preset(t, part[1]), part[2], part[3]); got != part[0] {
			t.Errorf("%s: it is %s", s.Text(), got)
		}
	}
	if lines < 60 {
		t.Errorf("only %d endpoints are listed", lines)
	}
}

// TestWhatDestroysOrMintsIsRefused, by the names in the vendors' own documentation.
func TestWhatDestroysOrMintsIsRefused(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"openai DELETE /v1/models/ft:gpt-4o-mini:acme::abc administrative", "openai DELETE /models/x administrative",
		"openai POST /v1/fine_tuning/checkpoints/x/permissions administrative", "openai POST /v1/projects/x/users administrative",
		"openai POST /v2/files asynchronous", "openai POST /v1/openai/batches asynchronous", "openai GET /v1/models/x plain",
		"gemini POST /v1beta1/auth_tokens administrative", "gemini POST /v1main/authTokens administrative", "gemini POST /v1beta/openai/auth_tokens administrative",
		"gemini POST /v1main/cachedContents asynchronous", "gemini POST /v1beta1/files asynchronous", "gemini POST /v1/openai/files asynchronous",
		"gemini POST /v1alpha/openai/files asynchronous", "gemini POST /v1beta/openai/fine_tuning/jobs asynchronous", "gemini POST /v1beta/files:register asynchronous",
		"gemini POST /v1beta1/models/x:batchGenerateContent asynchronous", "gemini POST /v1beta/models/x:generateContent;:countTokens plain",
		"gemini POST /v1beta/models/x:generateContent metered", "gemini POST /v1main/models/x:countTokens free",
		"gemini DELETE /v1beta/models/x administrative", "gemini POST /v1beta/tunedModels/x/permissions administrative",
		"anthropic POST /v1/user_profiles/x/enrollment_url administrative", "anthropic POST /v1/tunnels/x/reveal_token administrative",
		"openrouter POST /v1/keys administrative", "openrouter POST /api/keys administrative",
		"groq DELETE /v1/models/x administrative", "mistral DELETE /v1/models/ft:x administrative",
		"mistral POST /v1/service-accounts administrative", "mistral PATCH /v1/connectors/x/x/credentials administrative",
		"mistral POST /v1/workflows/x/execute asynchronous", "mistral DELETE /v2/prompts/x asynchronous",
		"together GET /v1/deployments/secrets administrative", "together POST /v1/compute/clusters asynchronous", "together POST /v1/models asynchronous",
		"together DELETE /v1/projects/x/models/x administrative", "cohere DELETE /compatibility/v1/models/x administrative", "cohere POST /compatibility/v1/batches asynchronous",
		"deepseek POST /anthropic/v1/messages/batches asynchronous", "deepseek POST /anthropic/messages/batches asynchronous",
		"perplexity POST /v1/generate_auth_token administrative", "perplexity POST /v1/async/chat/completions asynchronous", "perplexity GET /v1/models free",
		"lmstudio POST /api/v1/models/load administrative", "lmstudio POST /v1/models/load administrative", "ollama DELETE /api/delete asynchronous",
		"vllm POST /v1/metrics administrative", "llamacpp POST /models/load administrative",
	} {
		part := strings.Fields(line)
		if got := class(preset(t, part[0]), part[1], part[2]); got != part[3] {
			t.Errorf("%s: it is %s", line, got)
		}
	}
}

// TestAnAddressThatEndsInAVersionIsAskedForItOnce: every base URL in use, with every
// version that clients write before a path. The request that is sent has one version,
// or the address is refused.
func TestAnAddressThatEndsInAVersionIsAskedForItOnce(t *testing.T) {
	t.Parallel()
	for _, p := range All() {
		for _, before := range []string{"", "/gateway", "/litellm/proxy"} {
			for _, version := range append(everyVersion(p), p.Roots...) {
				for _, slash := range []string{"", "/"} {
					root := before + version + slash
					if root == "" || strings.Contains(root, ";") {
						root = "/"
					}
					base, err := p.Base(root)
					if err != nil {
						if !strings.Contains(err.Error(), "leave") || version == "" || strings.HasSuffix(version, p.Prefix) && version == p.Prefix {
							t.Errorf("%s at %s: %v", p.Name, root, err)
						}
						continue
					}
					for _, asked := range []string{"", p.Prefix} {
						sent := strings.TrimSuffix(base, "/") + p.Canonical(asked+"/chat/completions")
						versions := 0
						for segment := range strings.SplitSeq(sent, "/") {
							if isVersion(segment) {
								versions++
							}
						}
						if p.Prefix != "" && versions != 1 {
							t.Errorf("%s at %s: %s is sent for %s/chat/completions", p.Name, root, sent, asked)
						}
					}
				}
			}
		}
	}
	for _, test := range []struct{ preset, root, base string }{
		{"openai", "/v1", "/"}, {"openai", "/v1/", "/"}, {"openai", "/v1/v1", "/"}, {"openai", "/gateway", "/gateway"}, {"openai", "/gateway/", "/gateway/"},
		{"openai", "/gateway/v1/", "/gateway"}, {"openai", "/openai/v1", "/openai"}, {"openai", "/openai", "/openai"},
		{"openai", "/v1beta/openai", ""}, {"openai", "/api/v3", ""}, {"openai", "/V1", ""},
		{"openrouter", "/api/v1", "/"}, {"openrouter", "/api", ""}, {"openrouter", "/v1", ""},
		{"groq", "/openai/v1", "/"}, {"groq", "/openai", ""}, {"groq", "/v1", ""}, {"fireworks", "/inference/v1", "/"}, {"fireworks", "/inference", ""},
		{"gemini", "/v1beta", "/"}, {"gemini", "/v1", ""}, {"gemini", "/v1beta/openai", ""}, {"gemini", "/google", "/google"},
		{"anthropic", "/anthropic", "/anthropic"}, {"anthropic", "/anthropic/v1", "/anthropic"},
		{"deepseek", "/anthropic", "/anthropic"}, {"deepseek", "/beta", ""}, {"cohere", "/v2", "/"}, {"cohere", "/v1", ""}, {"cohere", "/compatibility", ""},
		{"ollama", "/v1", "/"}, {"ollama", "/api", ""}, {"lmstudio", "/api/v0", ""}, {"vllm", "/v1", "/"}, {"perplexity", "/v1", "/v1"},
	} {
		base, err := preset(t, test.preset).Base(test.root)
		if base != test.base || (err == nil) != (test.base != "") {
			t.Errorf("%s at %s: %q, %v, want %q", test.preset, test.root, base, err, test.base)
		}
	}
	if base, err := new(Preset).Base("/api/v3/"); base != "/api/v3/" || err != nil {
		t.Errorf("without a preset: %q, %v", base, err)
	}
}
