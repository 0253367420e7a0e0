package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// matrixClient is a row of the client matrix: a client as a person gets it, which
// `run` points at till, in a home where nothing has ever been configured.
type matrixClient struct {
	name    string
	home    string // the folder of its package: agents, clients or sdk
	module  string // whose version docs/clients.md tells
	vendor  upstreamtest.Vendor
	model   string
	program string // a pattern of paths below home, or "node"
	args    func(*job) []string
	env     []string // what keeps it quiet, and what it needs to work alone
	setting string   // what docs/clients.md says that one sets without `run`
	blind   string   // why it sees no pictures; "" where it does
	retries int      // after a refusal, documented
	silent  string   // what it shows in place of the reason when a stream is cut; its exit status may then be 0
	shell   bool     // the model may have it run commands
}

// job is one run of a client.
type job struct {
	errand, work, dir string
	endless           bool
	turns             int
	model, base, home string
}

func (j *job) prompt() string {
	return "Read the files as they come, then say what you found. " + fmt.Sprintf(assignmentForm, j.errand, j.work, j.turns, j.endless, j.dir)
}

// sdkLoop is a client of sdk/errand.mjs.
func sdkLoop(name, module string, vendor upstreamtest.Vendor, model, setting string) matrixClient {
	return matrixClient{name: name, home: "sdk", module: module, vendor: vendor, model: model, program: "node", setting: setting,
		args: func(j *job) []string {
			args := []string{"errand.mjs", name, j.model, j.prompt()}
			if j.endless {
				args = append(args, "stream")
			}
			if j.work == workPicture {
				args = append(args, filepath.Join(j.dir, "picture.png"))
			}
			return args
		}}
}

// What docs/clients.md says that one sets.
const (
	variablesAbove = "the variables above"
	inItsCode      = "the address in code"
	ownConfig      = "[its configuration](#agents-configurations)"
)

// saidBefore is what the model had said when it was cut.
const saidBefore = "Reading."

const (
	sonnet = "claude-sonnet-5-5"
	mini   = "gpt-5-mini"
	gemini = "gemini-2.5-pro"
)

// matrixClients are the rows.
func matrixClients() []matrixClient {
	openAI, anthropic, google := upstreamtest.OpenAI, upstreamtest.Anthropic, upstreamtest.Gemini
	all := []matrixClient{
		{name: "Claude Code", setting: variablesAbove, home: "agents", module: "@anthropic-ai/claude-code", vendor: anthropic, model: sonnet, program: "@anthropic-ai/claude-code-*/claude", shell: true,
			args: func(j *job) []string {
				return []string{"-p", "--model", j.model, "--allowedTools", "Bash,Read", "--", j.prompt()}
			},
			env: []string{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1"}},
		{name: "Codex", setting: ownConfig, home: "agents", module: "@openai/codex", vendor: openAI, model: "gpt-5.5", program: "@openai/codex-*/vendor/*/bin/codex", shell: true, retries: 5,
			args: func(j *job) []string {
				return []string{"exec", "--skip-git-repo-check", "-m", j.model, "-c", `web_search="disabled"`, "-c", `sandbox_mode="danger-full-access"`, j.prompt()}
			}},
		{name: "Gemini CLI", setting: ownConfig, home: "clients", module: "@google/gemini-cli", vendor: google, model: gemini, program: ".bin/gemini", shell: true,
			args: func(j *job) []string { return []string{"-m", j.model, "-y", "-p", j.prompt()} },
			env:  []string{"GEMINI_CLI_TRUST_WORKSPACE=true", "GEMINI_TELEMETRY_ENABLED=false"}},
		{name: "Qwen Code", setting: "the variables above, `--auth-type openai`", home: "clients", module: "@qwen-code/qwen-code", vendor: openAI, model: mini, program: ".bin/qwen", shell: true,
			args: func(j *job) []string { return []string{"-m", j.model, "-y", "-p", j.prompt()} }, blind: "it takes the model for one that sees none"},
		{name: "Cline", setting: ownConfig, home: "clients", module: "cline", vendor: openAI, model: mini, program: "@cline/cli-*/bin/cline", shell: true,
			args: func(j *job) []string { return []string{"-m", j.model, j.prompt()} }},
		{name: "Continue cn", setting: ownConfig, home: "clients", module: "@continuedev/cli", vendor: openAI, model: mini, program: ".bin/cn", shell: true,
			args: func(j *job) []string { return []string{"--config", "cn.yaml", "--auto", "-p", j.prompt()} }, blind: "it reads files as text", silent: saidBefore},
	}
	for _, v := range []struct {
		name, id, model string
		vendor          upstreamtest.Vendor
	}{{"OpenAI", "openai", mini, openAI}, {"Anthropic", "anthropic", "claude-sonnet-4-5", anthropic}, {"Google", "google", gemini, google}} {
		all = append(all,
			matrixClient{name: "opencode " + v.name, setting: ownConfig, home: "clients", module: "opencode-ai", vendor: v.vendor, model: v.model, program: "opencode-linux-x64/bin/opencode", shell: true,
				args: func(j *job) []string { return []string{"run", "-m", v.id + "/" + j.model, j.prompt()} },
				env:  []string{"OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_MODELS_FETCH=1", "OPENCODE_DISABLE_DEFAULT_PLUGINS=1"}},
			matrixClient{name: "pi " + v.name, setting: ownConfig, home: "clients", module: "@mariozechner/pi-coding-agent", vendor: v.vendor, model: v.model, program: ".bin/pi", shell: true,
				args: func(j *job) []string { return []string{"--model", v.id + "/" + j.model, "-p", j.prompt()} },
				env:  []string{"PI_OFFLINE=1", "PI_TELEMETRY=0"}})
	}
	agents := sdkLoop("openai-agents", "@openai/agents", openAI, mini, variablesAbove+", `OPENAI_AGENTS_DISABLE_TRACING=1`")
	agents.home, agents.silent = "clients", `unsuccessful terminal state "response.failed"`
	all = append(all, agents,
		sdkLoop("openai", "openai", openAI, mini, variablesAbove),
		sdkLoop("openai-chat", "openai", openAI, mini, variablesAbove),
		sdkLoop("anthropic", "@anthropic-ai/sdk", anthropic, sonnet, variablesAbove),
		sdkLoop("gemini", "@google/genai", google, gemini, variablesAbove),
		sdkLoop("mistral", "@mistralai/mistralai", upstreamtest.Mistral, "mistral-large-2512", inItsCode),
		sdkLoop("cohere", "cohere-ai", upstreamtest.Cohere, "command-a-03-2025", inItsCode),
		sdkLoop("vercel-openai", "ai", openAI, mini, variablesAbove),
		sdkLoop("vercel-anthropic", "ai", anthropic, sonnet, variablesAbove),
		sdkLoop("vercel-google", "ai", google, gemini, inItsCode),
		sdkLoop("langchain-openai", "@langchain/openai", openAI, mini, variablesAbove),
		sdkLoop("langchain-openai-responses", "@langchain/openai", openAI, mini, variablesAbove),
		sdkLoop("langchain-anthropic", "@langchain/anthropic", anthropic, sonnet, variablesAbove))
	for i, c := range all {
		switch c.name {
		case "mistral":
			all[i].silent = "ZodError"
		case "langchain-openai-responses":
			all[i].silent = saidBefore
		case "pi Google":
			// Its SDK reads the reason where it comes in a piece of its own, which the
			// tape does not keep apart.
			all[i].silent = "Incomplete JSON segment"
		}
	}
	return all
}

// command is how a person starts the client.
func (c *matrixClient) command(t *testing.T, j *job) []string {
	t.Helper()
	args := c.args(j)
	if c.program == "node" {
		if c.home == "clients" {
			args[0] = "frameworks.mjs"
		}
		script, err := filepath.Abs(filepath.Join(c.home, args[0]))
		if err != nil {
			t.Fatal(err)
		}
		return append([]string{"node", script}, args[1:]...)
	}
	pattern := filepath.Join(c.home, "node_modules", filepath.FromSlash(c.program))
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s; run: make clients (or: npm ci, in e2e/%s)", pattern, c.home)
	}
	program, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.Index(args, "cn.yaml"); i >= 0 {
		args[i] = filepath.Join(j.home, args[i])
		if err := os.WriteFile(args[i], []byte(fmt.Sprintf(cnConfig, j.model, j.base+"/v1")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return append([]string{program}, args...)
}

// cnConfig is that of docs/clients.md.
const cnConfig = `name: till
version: 1.0.0
schema: v1
models:
  - name: model
    provider: openai
    model: %s
    apiBase: %s
    apiKey: ${{ secrets.OPENAI_API_KEY }}
`

// version is that which is installed by the lock file.
func (c *matrixClient) version(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.home, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct{ Version string }
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	version := lock.Packages["node_modules/"+c.module].Version
	if version == "" {
		t.Fatalf("e2e/%s/package-lock.json has no %s", c.home, c.module)
	}
	return version
}

// documented is the client's line in docs/clients.md.
func (c *matrixClient) documented(t *testing.T) string {
	t.Helper()
	works := matrixWorks
	if c.blind != "" {
		works = []string{workLoop, workParallel}
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", c.name, c.version(t), strings.Join(works, ", "), c.setting)
}

// TestTheDocsHaveTheClientsOfTheMatrix: what docs/clients.md says was run is what
// the matrix runs.
func TestTheDocsHaveTheClientsOfTheMatrix(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## What was run\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, table, _ := strings.Cut(section, "\n| --- | --- | --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var run []string
	for _, c := range matrixClients() {
		run = append(run, c.documented(t))
	}
	if want := strings.Join(run, "\n"); table != want {
		t.Errorf("docs/clients.md has\n%s\nand the matrix runs\n%s", table, want)
	}
	for _, l := range matrixLimits {
		if !strings.Contains(section, l.name) {
			t.Errorf("docs/clients.md does not name the limit %s", l.name)
		}
	}
	model, address, _ := strings.Cut(cnConfig, "%s\n    apiBase: %s")
	if !strings.Contains(string(text), model+"gpt-5-mini\n    apiBase: https://agents.example.com/v1"+address) {
		t.Error("docs/clients.md lacks the configuration of cn")
	}
}
