package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// agentProgram is the agent's own command line, of the packages in agents/.
func agentProgram(t *testing.T, vendor upstreamtest.Vendor) string {
	t.Helper()
	pattern := map[upstreamtest.Vendor]string{
		upstreamtest.Anthropic: "agents/node_modules/@anthropic-ai/claude-code-*/claude",
		upstreamtest.OpenAI:    "agents/node_modules/@openai/codex-*/vendor/*/bin/codex",
	}[vendor]
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s; run: make thorough (or: npm ci, in e2e/agents)", pattern)
	}
	program, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// errand is a directory of files that an agent reads one after the other: parts,
// which fill its context, then short ones.
type errand struct {
	dir          string
	parts, turns int
	long         int // paragraphs that the model says each time, slowly
}

// scriptForm is how the prompt tells the stand-in what it is to do.
const scriptForm = "parts=%d turns=%d long=%d dir=%s"

const (
	partBytes = 28_000 // about 8,000 tokens of code, which both agents read whole
	turnBytes = 900
)

// newErrand writes the files. What is in them is this repository's own source,
// as an agent would read it; the run's number comes first, so that nothing of
// one run is in the cache of another.
func newErrand(t *testing.T, run, parts, turns int) errand {
	t.Helper()
	e := errand{filepath.Join(t.TempDir(), runName(run)), parts, turns, 0}
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := sources(t)
	for i := range parts + turns {
		name, size := "part", partBytes
		if i >= parts {
			name, size = "turn", turnBytes
		}
		name = fmt.Sprintf("%s%07d.txt", name, i)
		from := i * partBytes % (len(text) - partBytes)
		content := "// " + runName(run) + ", " + name + "\n" + text[from:from+size] + "\n"
		if err := os.WriteFile(filepath.Join(e.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func runName(run int) string { return fmt.Sprintf("run-%07d", run) }

// sources is code of this repository.
var sources = func() func(*testing.T) string {
	var text string
	var err error
	read := sync.OnceFunc(func() {
		var files []string
		if files, err = filepath.Glob("../*/*.go"); err != nil {
			return
		}
		var all strings.Builder
		for _, name := range files {
			var b []byte
			if b, err = os.ReadFile(name); err != nil {
				return
			}
			all.Write(b)
		}
		text = all.String()
	})
	return func(t *testing.T) string {
		t.Helper()
		if read(); err != nil || len(text) < 1_000_000 {
			t.Fatalf("reading the source: %d bytes, %v", len(text), err)
		}
		return text
	}
}()

func (e errand) prompt() string {
	return "Read the files as they come, then say what you found. " + scriptMark + fmt.Sprintf(scriptForm, e.parts, e.turns, e.long, e.dir)
}

// command is the agent at work on an errand.
func (e errand) command(t *testing.T, vendor upstreamtest.Vendor, base, key string) *exec.Cmd {
	t.Helper()
	model := map[upstreamtest.Vendor]string{upstreamtest.Anthropic: "opus", upstreamtest.OpenAI: "gpt-5.5"}[vendor]
	return agentCommand(t, vendor, model, e.dir, e.prompt(), base, key)
}

// agentCommand is an agent in a directory, with a fresh home and no settings but
// where to ask, and, of Codex, that it does not search at the vendor: that is what
// till refuses on keys with a limit in dollars.
func agentCommand(t *testing.T, vendor upstreamtest.Vendor, model, dir, prompt, base, key string) *exec.Cmd {
	t.Helper()
	home := t.TempDir()
	args := []string{"-p", "--model", model}
	if vendor == upstreamtest.OpenAI {
		args = []string{"exec", "--skip-git-repo-check", "-m", model}
		config := filepath.Join(home, ".codex")
		if err := os.Mkdir(config, 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(`model_provider = "till"
web_search = "disabled"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.till]
name = "till"
base_url = "%s/v1"
env_key = "TILL_KEY"
wire_api = "responses"
`, base)
		if err := os.WriteFile(filepath.Join(config, "config.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, agentProgram(t, vendor), append(args, prompt)...)
	endWithTests(cmd)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "TILL_KEY=" + key,
		"ANTHROPIC_BASE_URL=" + base, "ANTHROPIC_API_KEY=" + key, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1"}
	return cmd
}

// tape is what an agent sent, on its way to till.
type tape struct {
	*httptest.Server
	mu       sync.Mutex
	requests []taped
	started  chan struct{} // one value for each answer that began, while there is room
}

type taped struct {
	path   string // with the query
	header http.Header
	body   []byte
	status int
	code   string // of till's refusal
}

// tapeOf puts a tape in front of the server.
func tapeOf(t *testing.T, s *server) *tape {
	t.Helper()
	to, err := url.Parse("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &tape{started: make(chan struct{}, 1024)}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{DisableCompression: true}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.FlushInterval = -1
	type place struct{}
	proxy.ModifyResponse = func(res *http.Response) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if i, ok := res.Request.Context().Value(place{}).(int); ok {
			c.requests[i].status, c.requests[i].code = res.StatusCode, res.Header.Get("Till-Refusal")
		}
		if isTurn(res.Request.URL.Path) {
			select {
			case c.started <- struct{}{}:
			default:
			}
		}
		return nil
	}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // an agent that was ended
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		c.mu.Lock()
		i := len(c.requests)
		c.requests = append(c.requests, taped{path: r.URL.RequestURI(), header: r.Header.Clone(), body: body})
		c.mu.Unlock()
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), place{}, i)))
	}))
	t.Cleanup(func() {
		c.CloseClientConnections()
		c.Close()
	})
	return c
}

func isTurn(path string) bool {
	return strings.HasSuffix(path, "/messages") || strings.HasSuffix(path, "/responses")
}

// turns are the requests of the agent's loop, without those that count or list.
func (c *tape) turns() []taped {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []taped
	for _, r := range c.requests {
		if path, _, _ := strings.Cut(r.path, "?"); isTurn(path) {
			all = append(all, r)
		}
	}
	return all
}
