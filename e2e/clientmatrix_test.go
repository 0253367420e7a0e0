package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/semaphore"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// clientsVariable lets `make clients` run all of the matrix.
const clientsVariable = "TILL_CLIENTS"

// matrixLimits are the columns: what the key of a run is limited to, and how the
// run ends.
var matrixLimits = []struct {
	name, flags string
	ends        string // what the client must show; "" where the work is done
	endless     bool   // and the key is revoked while the model speaks
	most        int64  // activations
}{
	{"activations", "--max-activations 60", "", false, 0},
	{"tokens", "--max-tokens 50M", "", false, 0},
	{"dollars", "--max-spend-usd 200", "", false, 0},
	{"models", "--max-activations 60 --models claude-*,gpt-*,gemini-*,mistral-*,command-*", "", false, 0},
	{"dead", "--max-activations %d", "has used all", false, 3},
	{"revoked", "--max-activations 60", "was revoked", true, 0},
}

var matrixWorks = []string{workLoop, workPicture, workParallel}

// smallMatrix is what runs with every `make thorough`: each limit and each kind of
// work once, with the clients that most people have.
var (
	smallRows  = []string{"Claude Code", "Codex", "openai", "anthropic", "gemini"}
	smallCells = []string{"activations/parallel", "tokens/picture", "dollars/loop", "dead/loop", "revoked/loop"}
)

// matrixPlaces bounds how many clients run at a time: each keeps a processor busy
// while it starts.
var matrixPlaces = semaphore.NewWeighted(3)

// TestClientMatrix runs each client with each kind of limit on each kind of work.
func TestClientMatrix(t *testing.T) {
	t.Parallel()
	all := os.Getenv(clientsVariable) != ""
	type outcome struct{ tried, passed int }
	var mu sync.Mutex
	results := make(map[string]map[string]*outcome)
	rows := matrixClients()
	t.Cleanup(func() {
		line := func(name string, cell func(string) string) string {
			text := fmt.Sprintf("%-26s", name)
			for _, l := range matrixLimits {
				text += fmt.Sprintf(" %8.8s", cell(l.name))
			}
			return text
		}
		table := []string{line("client", func(limit string) string { return limit[:min(8, len(limit))] })}
		for _, c := range rows {
			if results[c.name] != nil {
				table = append(table, line(c.name, func(limit string) string {
					if o := results[c.name][limit]; o != nil {
						return fmt.Sprintf("%d/%d", o.passed, o.tried)
					}
					return "-"
				}))
			}
		}
		t.Log("\n" + strings.Join(table, "\n"))
	})
	for _, c := range rows {
		if !all && !slices.Contains(smallRows, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newMatrixRow(t, c)
			for _, limit := range matrixLimits {
				for _, work := range matrixWorks {
					if work == workPicture && c.blind != "" {
						continue
					}
					if !all && !slices.Contains(smallCells, limit.name+"/"+work) {
						continue
					}
					t.Run(limit.name+"/"+work, func(t *testing.T) {
						defer func() {
							mu.Lock()
							defer mu.Unlock()
							if results[c.name] == nil {
								results[c.name] = make(map[string]*outcome)
							}
							o := results[c.name][limit.name]
							if o == nil {
								o = new(outcome)
								results[c.name][limit.name] = o
							}
							o.tried++
							if !t.Failed() {
								o.passed++
							}
						}()
						flags := limit.flags
						if limit.most > 0 {
							flags = fmt.Sprintf(flags, limit.most)
						}
						w.run(t, limit.name, work, flags, limit.ends, limit.endless)
					})
				}
			}
		})
	}
}

// matrixRow is what the cells of a row share.
type matrixRow struct {
	matrixClient
	s     *server
	model *model
	land  *island
}

func newMatrixRow(t *testing.T, c matrixClient) *matrixRow {
	waitsFor(t, matrixPlaces, 1) // before its server takes a place of others
	m := newModel(t)
	w := &matrixRow{c, newServer(t, options{vendor: c.vendor, to: m.URL, upstream: "drain 1m"}), m, newIsland(t)}
	w.land.open(t, w.s.admin)
	return w
}

// matrixBooks are the prices of the models of the matrix, as their vendors publish
// them (2026-11), in nano-dollars a token.
var matrixBooks = map[string]rates{
	"claude-haiku-4-5-20251001": {input: 1000, output: 5000}, "gpt-5.4-nano": {input: 200, output: 1250}, // opencode's titles
	"claude-sonnet-4-5": {input: 3000, output: 15_000}, sonnet: {input: 2000, output: 10_000}, "gpt-5.5": {input: 5000, output: 30_000}, mini: {input: 250, output: 2000}, gemini: {input: 1250, output: 10_000},
	"gemini-3.8-flash": {input: 750, output: 3750}, "mistral-large-2512": {input: 500, output: 1500}, "command-a-03-2025": {input: 2500, output: 10_000},
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// run is one cell.
func (w *matrixRow) run(t *testing.T, limit, work, flags, ends string, endless bool) {
	j := w.newJob(t, limit+"-"+work, work, endless)
	before := w.model.book()
	tape := tapeOf(t, w.s)
	j.base = tape.URL
	w.land.open(t, tape.Listener.Addr().String())
	cmd := w.underRun(t, j, tape, flags)
	out := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := w.land.start(cmd); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if endless {
		select {
		case <-w.model.streams:
			w.revoke(t, j.errand)
		case err := <-ended:
			t.Fatalf("it ended before it was revoked: %v\n%s", err, tail(out))
		}
	}
	err := <-ended
	said := escapes.ReplaceAllString(out.String(), "")
	said = strings.Join(strings.Fields(said), " ")
	// A client may end without having waited for each of its requests.
	w.s.used(w.key(t, j.errand)["id"].(string))
	k := w.key(t, j.errand)
	books := w.model.book().less(before)
	refused := 0
	for _, r := range tape.all() {
		if r.code != "" {
			refused++
		}
	}
	var wrong []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	check(!strings.Contains(out.String(), realKey), "it shows the real key")
	if ends == "" {
		check(err == nil, "it ends with %v", err)
		check(strings.Contains(said, doneSaying) && w.model.hasFinished(j.errand), "the errand is not done")
		check(refused == 0, "%d requests were refused", refused)
	} else {
		silent := endless && w.silent != ""
		check(silent || err != nil, "its exit status is 0")
		check(strings.Contains(said, ends) || silent && strings.Contains(said, w.silent), "it does not show %q", ends)
		check(refused <= 2+w.retries, "it was refused %d times", refused)
	}
	if most, ok := k["max_activations"].(float64); ok {
		check(k["used_activations"].(float64) <= most && books.answers <= int64(most), "%v of %v activations; the vendor answered %d", k["used_activations"], most, books.answers)
		check(limit != "dead" || books.answers == int64(most), "the vendor answered %d times", books.answers)
	}
	check(float64(books.answers) == k["used_activations"].(float64), "the vendor answered %d times, the key has used %v", books.answers, k["used_activations"])
	if tokens, ok := k["used_tokens"].(float64); ok && limit == "tokens" {
		check(int64(tokens) == books.input+books.output, "the vendor counts %d tokens, till %v", books.input+books.output, tokens)
	}
	if spend, ok := k["used_spend_usd"].(string); ok && limit == "dollars" {
		nano, err := record.ParseUSD(spend)
		check(err == nil && nano == books.nano, "the vendor bills %d nano-dollars, till %d (%v)", books.nano, nano, err)
	}
	for _, host := range w.land.hosts() {
		check(!vendorHost(host), "it asked for %s", host)
	}
	if len(wrong) > 0 {
		t.Errorf("%s\n%s\nit asked for %v\n%s", strings.Join(wrong, "\n"), tape, w.land.hosts(), tail(out))
	}
}

func tail(out *syncBuffer) string {
	text := out.String()
	return text[max(0, len(text)-3000):]
}

// newJob writes the files of an errand.
func (w *matrixRow) newJob(t *testing.T, name, work string, endless bool) *job {
	t.Helper()
	j := &job{errand: name, work: work, endless: endless, turns: 4, model: w.matrixClient.model, dir: t.TempDir(), home: t.TempDir()}
	if work == workShell {
		j.turns = 2
	}
	for i := range j.turns + 2 {
		text := "package one // " + leafOf(j.errand, i) + "\n"
		if err := os.WriteFile(filepath.Join(j.dir, fmt.Sprintf("%d.txt", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(j.dir, "picture.png"), smallPicture(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return j
}

// smallPicture is a PNG of one pixel.
func smallPicture(t *testing.T) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// underRun is the client under `till run`, in a fresh home, with an environment
// that is full of real keys.
func (w *matrixRow) underRun(t *testing.T, j *job, tape *tape, flags string) *exec.Cmd {
	args := append([]string{"till", "run", "--base-url", tape.URL, "--upstream", "mock", "--name", j.errand}, strings.Fields(flags)...)
	args = append(append(args, "--"), w.command(t, j)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, w.s.binary, args...)
	endWithTests(cmd)
	cmd.Dir = j.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + j.home, "TMPDIR=" + j.home, "LANG=C.UTF-8", "TERM=dumb", "NO_COLOR=1", "NO_PROXY=127.0.0.1",
		"TILL_ADDRESS=" + w.s.admin, "MOCK_KEY=" + realKey}, w.env...)
	for _, p := range upstream.All() {
		for _, name := range append(p.KeyEnv, p.OtherEnv...) {
			cmd.Env = append(cmd.Env, name+"="+realKey)
		}
	}
	return cmd
}

// key is the one that a run minted.
func (w *matrixRow) key(t *testing.T, name string) object {
	t.Helper()
	_, list := w.s.api("GET", "/keys", nil)
	for _, k := range list["keys"].([]any) {
		if k.(object)["name"] == name {
			return k.(object)
		}
	}
	t.Fatalf("there is no key %s", name)
	return nil
}

func (w *matrixRow) revoke(t *testing.T, name string) {
	t.Helper()
	if status, answer := w.s.api("POST", "/keys/"+w.key(t, name)["id"].(string)+"/revoke", object{"reason": "enough"}); status != http.StatusOK {
		t.Errorf("revoke: %d %v", status, answer)
	}
}

// vendorHost reports whether a name is one that a key could be sent to.
func vendorHost(name string) bool {
	for _, p := range upstream.All() {
		if _, host, ok := strings.Cut(p.Origin, "://"); ok && (name == host || strings.HasSuffix(name, "."+host)) {
			return true
		}
	}
	return false
}

// all are the requests that were taped.
func (c *tape) all() []taped {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// String is what was asked and answered, one line each.
func (c *tape) String() string {
	var b strings.Builder
	for _, r := range c.all() {
		fmt.Fprintf(&b, "%s %d bytes -> %d %s\n", r.path, len(r.body), r.status, r.code)
	}
	return b.String()
}

// TestNoClientOfARunSeesTheRealKey lets the model have the clients' own shells
// print their environment.
func TestNoClientOfARunSeesTheRealKey(t *testing.T) {
	t.Parallel()
	all := os.Getenv(clientsVariable) != ""
	for _, c := range matrixClients() {
		if !c.shell || !all && !slices.Contains(smallRows, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newMatrixRow(t, c)
			w.run(t, "activations", workShell, "--max-activations 60", "", false)
			if !w.model.sawEnvironment() {
				t.Error("the model saw no environment")
			}
		})
	}
}

// TestARunDoesNotLetAClientCallTheVendor: where a client cannot be pointed at
// till, it is not started.
func TestARunDoesNotLetAClientCallTheVendor(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Mistral})
	dir := t.TempDir()
	for _, name := range []string{"opencode", "pi", "cline", "cn", "goose"} {
		program := filepath.Join(dir, name)
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho it runs\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := s.underRun("--max-activations 1", program).CombinedOutput()
		if err == nil || strings.Contains(string(out), "it runs") || !strings.Contains(string(out), "send the key to the vendor") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	if _, list := s.api("GET", "/keys", nil); len(list["keys"].([]any)) > 0 {
		t.Errorf("keys were minted: %v", list)
	}
}
