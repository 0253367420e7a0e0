package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

const runSecret = "sk-real-0123456789abcdefghij"

func runKeys(presets ...string) (keys []runKey, all []wire.UpstreamInfo) {
	for _, p := range presets {
		info := wire.UpstreamInfo{Name: p, Preset: p}
		keys = append(keys, runKey{&wire.Minted{KeyObject: &wire.KeyObject{Upstream: p}, ScopedKey: "till_sk_" + p}, info})
		all = append(all, info)
	}
	return keys, all
}

func TestTheCommandOfARunSeesNoCredential(t *testing.T) {
	t.Parallel()
	keys, all := runKeys("groq")
	all = append(all, wire.UpstreamInfo{Name: "github", CredentialEnv: "MY_GITHUB"})
	var environ []string
	for _, p := range upstream.All() {
		for _, name := range slices.Concat(p.KeyEnv, p.OtherEnv) {
			environ = append(environ, name+"="+runSecret)
		}
		for _, c := range slices.Concat(p.ClientEnv, p.ToolEnv) {
			if c.Key {
				environ = append(environ, c.Name+"="+runSecret)
			}
		}
	}
	environ = append(environ, "TILL_TOKEN=till_admin_x", "TILL_ADDRESS=unix//run/admin.sock", "MY_GITHUB=ghp_0123456789abcdef", "COPY_OF_GITHUB=x ghp_0123456789abcdef",
		"A_COPY={\"key\": \""+runSecret+"\"}", "ANOTHER_TOKEN=till_admin_y",
		"OPENAI_CUSTOM_HEADERS=X-Team: a\nx-api-key: of-another-gateway", "ANTHROPIC_CUSTOM_HEADERS=anthropic-beta: one",
		"PATH=/bin", "HOME=/root", "EMPTY=", "CLAUDE_CODE_USE_BEDROCK=1", "ONE=1")
	env, notes := runEnviron(&handover{base: "http://here", environ: environ}, keys, all, nil)
	admintest.Equal(t, "the environment", strings.Join(env, "\n"), `ANTHROPIC_CUSTOM_HEADERS=anthropic-beta: one
PATH=/bin
HOME=/root
EMPTY=
ONE=1
TILL_BASE_URL=http://here
TILL_KEY=till_sk_groq
TILL_KEY_GROQ=till_sk_groq
GROQ_BASE_URL=http://here
GROQ_API_KEY=till_sk_groq`)
	if len(notes) > 0 {
		t.Errorf("notes: %q", notes)
	}
	env, _ = runEnviron(&handover{base: "http://here", environ: environ}, keys, all, []string{"MY_GITHUB", "GROQ_API_KEY"})
	if !slices.Contains(env, "MY_GITHUB=ghp_0123456789abcdef") || slices.Contains(env, "GROQ_API_KEY="+runSecret) || !slices.Contains(env, "GROQ_API_KEY=till_sk_groq") {
		t.Errorf("with variables passed: %q", env)
	}
}

func TestVariablesOfARunByTool(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		presets []string
		command string
		want    []string
		without string
		notes   string
	}{
		"Claude Code": {[]string{"anthropic"}, "/usr/local/bin/claude",
			[]string{"ANTHROPIC_BASE_URL=http://here", "ANTHROPIC_AUTH_TOKEN=till_sk_anthropic"}, "ANTHROPIC_API_KEY", ""},
		"SDKs of Anthropic": {[]string{"anthropic"}, "node",
			[]string{"ANTHROPIC_BASE_URL=http://here", "ANTHROPIC_AUTH_TOKEN=till_sk_anthropic", "ANTHROPIC_API_KEY=till_sk_anthropic", "ANTHROPIC_API_URL=http://here"}, "OPENAI_API_KEY", ""},
		"SDKs of OpenAI, Codex and Aider": {[]string{"openai"}, "codex",
			[]string{"OPENAI_BASE_URL=http://here/v1", "OPENAI_API_BASE=http://here/v1", "OPENAI_API_KEY=till_sk_openai", "TILL_KEY=till_sk_openai", "TILL_KEY_OPENAI=till_sk_openai", "OPENAI_AGENTS_DISABLE_TRACING=1"}, "CODEX_API_KEY", ""},
		"Gemini": {[]string{"gemini"}, "gemini",
			[]string{"GOOGLE_GEMINI_BASE_URL=http://here", "GEMINI_API_KEY=till_sk_gemini", "GOOGLE_API_KEY=till_sk_gemini", "GOOGLE_GENERATIVE_AI_API_KEY=till_sk_gemini"}, "OPENAI_API_KEY", ""},
		"an address in code": {[]string{"mistral"}, "node",
			[]string{"MISTRAL_API_KEY=till_sk_mistral", "TILL_BASE_URL=http://here"}, "OPENAI_API_KEY", "serverURL = $TILL_BASE_URL"},
		"any HTTP API": {[]string{"my-api"}, "curl",
			[]string{"TILL_BASE_URL=http://here", "TILL_KEY=till_sk_my-api", "TILL_KEY_MY_API=till_sk_my-api"}, "OPENAI_API_KEY", ""},
		"two whose clients read the same": {[]string{"openai", "xai"}, "node",
			[]string{"OPENAI_API_KEY=till_sk_openai", "XAI_API_KEY=till_sk_xai", "TILL_KEY=till_sk_openai", "TILL_KEY_XAI=till_sk_xai"}, "ANTHROPIC_API_KEY", "OPENAI_API_KEY can be set for only one upstream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys, all := runKeys(test.presets...)
			h := &handover{args: []string{test.command}, base: "http://here", upstreams: all, environ: []string{"ANTHROPIC_API_KEY=" + runSecret, "GEMINI_CLI_HOME=/no/such/home"}, dir: t.TempDir()}
			if configure := runTools[tool(test.command)]; configure != nil {
				if err := configure(h); err != nil {
					t.Fatal(err)
				}
			}
			env, notes := runEnviron(h, keys, all, nil)
			for _, line := range test.want {
				if !slices.Contains(env, line) {
					t.Errorf("%s is missing in %q", line, env)
				}
			}
			if slices.ContainsFunc(env, func(line string) bool { return strings.HasPrefix(line, test.without+"=") }) {
				t.Errorf("%s stands in %q", test.without, env)
			}
			if joined := strings.Join(notes, " "); !strings.Contains(joined, test.notes) || test.notes == "" && joined != "" {
				t.Errorf("notes %q, want %q", notes, test.notes)
			}
		})
	}
}

func TestTheReportOfARunFits(t *testing.T) {
	t.Parallel()
	const id = "key_01M86CZR4HQ80C5C66DDK59VMG"
	var b strings.Builder
	err := printUsed(&b, []*wire.RevokedKey{
		{KeyObject: &wire.KeyObject{ID: id, Upstream: "openai", UsedActivations: 12, MaxActivations: count(500), UsedTokens: count(34567), UsedSpendUSD: "0.12", MaxSpendUSD: "5.00"}, StreamsCut: 1},
		{KeyObject: &wire.KeyObject{ID: id, Upstream: "anthropic", UsedActivations: 1}},
	}, 185_000_000_000)
	if err != nil {
		t.Fatal(err)
	}
	fits(t, b.String())
	admintest.Equal(t, "the report", b.String(), `till: openai: used 12 of 500 activations, 34567 tokens, $0.12 of $5.00 in
      3m05s; ended 1 running request; revoked key_01M86CZR4HQ80C5C66DDK59VMG
till: anthropic: used 1 activation in 3m05s; revoked
      key_01M86CZR4HQ80C5C66DDK59VMG
`)
}
