package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/till-proxy/till/upstream"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// agents are the applications of sdk/agent.mjs, which take everything from the
// environment.
var agents = map[string]upstreamtest.Vendor{
	"openai": upstreamtest.OpenAI, "anthropic": upstreamtest.Anthropic, "gemini": upstreamtest.Gemini,
	"mistral": upstreamtest.Mistral, "cohere": upstreamtest.Cohere, "groq": "groq", "together": "together",
	"vercel-openai": upstreamtest.OpenAI, "vercel-anthropic": upstreamtest.Anthropic, "vercel-google": upstreamtest.Gemini,
	"langchain-openai": upstreamtest.OpenAI, "langchain-anthropic": upstreamtest.Anthropic,
}

// underRun is a command under `till run`, in an environment that is full of
// real keys.
func (s *server) underRun(flags string, command ...string) *exec.Cmd {
	args := append([]string{"till", "run", "--base-url", "http://" + s.addr}, strings.Fields(flags)...)
	cmd := s.command(append(append(args, "--"), command...)...)
	for _, p := range upstream.All() {
		for _, name := range append(p.KeyEnv, p.OtherEnv...) {
			cmd.Env = append(cmd.Env, name+"="+realKey)
		}
	}
	cmd.Env = append(cmd.Env, "ANTHROPIC_AUTH_TOKEN="+realKey, "MY_OWN_COPY=Bearer "+realKey, "KEPT=yes")
	return cmd
}

func agentScript(t *testing.T) string {
	t.Helper()
	needsSDKs(t)
	path, err := filepath.Abs("sdk/agent.mjs")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// theOnlyKey is the key that a run minted.
func (s *server) theOnlyKey() object {
	s.t.Helper()
	_, list := s.api("GET", "/keys", nil)
	keys := list["keys"].([]any)
	if len(keys) != 1 {
		s.t.Fatalf("there are %d keys, want 1", len(keys))
	}
	return keys[0].(object)
}

func TestRunGivesAnSDKAKeyOfItsOwnAndNoRealOne(t *testing.T) {
	t.Parallel()
	for client, vendor := range agents {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: vendor})
			cmd := s.underRun("--max-activations 3 --name nightly", "node", agentScript(t), client)
			var out, errOut strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errOut
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, errOut.String())
			}
			said, env, _ := strings.Cut(out.String(), "\n")
			if said != `"hello"` || strings.Contains(env, realKey) || !strings.Contains(env, `"KEPT":"yes"`) {
				t.Errorf("the agent was told %s, in the environment\n%s", said, env)
			}
			k := s.theOnlyKey()
			if k["status"] != "revoked" || k["used_activations"].(float64) != 1 || k["expires_at"] == nil || k["name"] != "nightly" {
				t.Errorf("afterwards the key is %v", k)
			}
			want := "till: used 1 of 3 activations"
			if report := errOut.String(); !strings.Contains(report, want) || !strings.Contains(report, "revoked") {
				t.Errorf("it says %q, want %q", report, want)
			}
			s.clean()
			if n := s.upstream.Count(); n != 1 {
				t.Errorf("the upstream counted %d, want 1", n)
			}
		})
	}
}

// begun is a command under `till run` that has said that it is ready.
type begun struct {
	*exec.Cmd
	said   *bufio.Scanner
	stderr *syncBuffer
}

func (s *server) begin(ready string, cmd *exec.Cmd) begun {
	s.t.Helper()
	b := begun{Cmd: cmd, stderr: new(syncBuffer)}
	cmd.Stderr = b.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	b.said = bufio.NewScanner(out)
	b.said.Buffer(nil, 1<<20)
	b.until(s.t, ready)
	return b
}

func (b begun) until(t *testing.T, line string) {
	t.Helper()
	for b.said.Scan() {
		if b.said.Text() == line {
			return
		}
	}
	t.Fatalf("it never says %q: %s", line, b.stderr)
}

// end waits for the end of run, and returns its exit status.
func (b begun) end(t *testing.T) int {
	t.Helper()
	for b.said.Scan() { // to its end, which is that of the command
	}
	_ = b.Wait() // the status says it
	return b.ProcessState.ExitCode()
}

// child is the process that run runs, found as `ps` would.
func child(t *testing.T, parent int, name string) int {
	t.Helper()
	list, err := os.ReadDir("/proc")
	if err != nil {
		t.Skip("there is no /proc here")
	}
	for _, e := range list {
		var pid, ppid int
		var state rune
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // no process, or one that has ended
		}
		if _, err := fmt.Sscanf(string(stat), "%d ("+name+") %c %d", &pid, &state, &ppid); err == nil && ppid == parent {
			return pid
		}
	}
	t.Fatalf("%s is no child of run", name)
	return 0
}

func TestRunRevokesWhenItsCommandIsKilled(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	b := s.begin(`"ready"`, s.underRun("", "node", agentScript(t), "openai", "hold"))
	if k := s.theOnlyKey(); k["status"] != "active" {
		t.Errorf("while the agent runs the key is %v", k)
	}
	if err := syscall.Kill(child(t, b.Process.Pid, "node"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := b.end(t); code != 128+9 {
		t.Errorf("exit status %d, want 137: %s", code, b.stderr)
	}
	if k := s.theOnlyKey(); k["status"] != "revoked" || k["ended_reason"] != "its command has ended" {
		t.Errorf("afterwards the key is %v", k)
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for _, test := range []struct {
		signal syscall.Signal
		script string
		code   int
	}{
		{syscall.SIGTERM, `exec sleep 600`, 128 + 15},
		{syscall.SIGHUP, `exec sleep 600`, 128 + 1},
		{syscall.SIGINT, `trap 'exit 3' INT`, 3},
		{syscall.SIGTERM, `trap 'exit 0' TERM`, 0},
		{syscall.SIGUSR1, `trap 'exit 4' USR1`, 4},
	} {
		script := "echo ready; while :; do sleep 0.02; done"
		if strings.HasPrefix(test.script, "exec") {
			script = "echo ready; " + test.script
		} else {
			script = test.script + "; " + script
		}
		b := s.begin("ready", s.underRun("", "sh", "-c", script))
		if err := b.Process.Signal(test.signal); err != nil {
			t.Fatal(err)
		}
		if code := b.end(t); code != test.code {
			t.Errorf("%v: exit status %d, want %d: %s", test.signal, code, test.code, b.stderr)
		}
	}
	_, list := s.api("GET", "/keys", nil)
	for _, k := range list["keys"].([]any) {
		if k.(object)["status"] != "revoked" {
			t.Errorf("a key is left: %v", k)
		}
	}
}

func TestAKilledRunLeavesNoKey(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	ending := filepath.Join(s.dir, "go")
	b := s.begin("ready", s.underRun("", "sh", "-c", `echo ready; while [ -d `+s.dir+` ] && [ ! -e `+ending+` ]; do sleep 0.02; done`))
	if err := b.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the key is revoked by the watcher", func() bool {
		k := s.theOnlyKey()
		return k["status"] == "revoked" && k["ended_reason"] == "run ended without revoking it"
	})
	if err := os.WriteFile(ending, nil, 0o600); err != nil { // the command outlives its run
		t.Fatal(err)
	}
	_ = b.Wait() // killed
}

func TestRunExitsAsAShellDoes(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	plain := filepath.Join(s.dir, "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(s.dir, "script")
	if err := os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		flags   string
		command []string
		code    int
		minted  bool
		said    string
	}{
		"the command's status": {"", []string{"sh", "-c", "exit 42"}, 42, true, ""},
		"not there":            {"", []string{"no-such-command"}, 127, false, "there is no such command"},
		"no file":              {"", []string{"/no/such/file"}, 127, false, "there is no such command"},
		"not executable":       {"", []string{plain}, 126, false, "permission denied"},
		"no interpreter":       {"", []string{script}, 126, true, "cannot be executed"},
		"no command":           {"", nil, 125, false, "name the command"},
		"an unknown flag":      {"--nope", []string{"true"}, 125, false, "unknown flag"},
		"a lifetime too long":  {"--expires-in 25h", []string{"true"}, 125, false, "at most 24h"},
		"no such upstream":     {"--upstream nope", []string{"true"}, 125, false, "is not configured"},
		"the second of two":    {"--upstream mock --upstream nope", []string{"true"}, 125, true, "is not configured"},
		"an end too late":      {"--expires-at 2100-01-01T00:00:00Z", []string{"true"}, 125, false, "within 24h"},
		"no server":            {"--address 127.0.0.1:1", []string{"true"}, 125, false, "no server answers"},
	} {
		cmd := s.underRun(test.flags, test.command...)
		var errOut strings.Builder
		cmd.Stderr = &errOut
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(errOut.String(), test.said) {
			t.Errorf("%s: exit status %d, want %d with %q: %s", name, code, test.code, test.said, errOut.String())
		}
		_, list := s.api("GET", "/keys", nil)
		keys := list["keys"].([]any)
		if minted := len(keys) > 0; minted != test.minted {
			t.Errorf("%s: minted %v, want %v", name, minted, test.minted)
		}
		for _, k := range keys {
			if k.(object)["status"] != "revoked" {
				t.Errorf("%s: the key is left: %v", name, k)
			}
			if status, _ := s.api("DELETE", "/keys/"+k.(object)["id"].(string), nil); status != 204 {
				t.Errorf("%s: forgetting: %d", name, status)
			}
		}
	}
}

// eachWatcher lets the shell of a run do something with each watcher of that run, whose
// directory in /proc is $d. That of another test may not have concealed itself yet.
func eachWatcher(do string) string {
	return `for f in $(grep -ls "^PPid:.$PPID\$" /proc/[0-9]*/status); do
			d=${f%/status}
			case "$(tr '\0' ' ' < $d/cmdline 2>/dev/null)" in
			*"till run-watch ") ` + do + ` ;;
			esac
		done`
}

func TestTheCommandOfARunCannotReadTheEnvironmentOfRun(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	cmd := s.underRun("", "sh", "-c", `echo ready
		tr '\0' '\n' < /proc/$PPID/environ
		`+eachWatcher(`echo watcher; tr '\0' '\n' < $d/environ`))
	asNobody(t, cmd)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), realKey) || !strings.Contains(string(out), "watcher") || !strings.Contains(string(out), "/environ: Permission denied") {
		t.Errorf("%v: the command reads %s", err, out)
	}
}

// TestTheCommandOfARunCannotTakeTheOrderOfItsWatcher: what the watcher has to know to
// revoke the key comes through its standard input.
func TestTheCommandOfARunCannotTakeTheOrderOfItsWatcher(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	cmd := s.underRun("", "sh", "-c", eachWatcher("echo watcher; timeout 300 head -c 30 $d/fd/0"))
	asNobody(t, cmd)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), `"address"`) || !strings.Contains(string(out), "watcher") || !strings.Contains(string(out), "/fd/0") {
		t.Errorf("%v: the command reads %s", err, out)
	}
	if k := s.theOnlyKey(); k["status"] != "revoked" {
		t.Errorf("afterwards the key is %v", k)
	}
}

// asNobody runs a command as a user who may not read everything.
func asNobody(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Dir = "/"
	if os.Getuid() != 0 {
		return
	}
	if err := os.Chmod(filepath.Dir(caddyBinary), 0o711); err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

func TestRunMintsAKeyForEachUpstream(t *testing.T) {
	t.Parallel()
	other := upstreamtest.Start(t, upstreamtest.Anthropic, realKey)
	s := newServer(t, options{more: "upstream claude anthropic {\ncredential {env.MOCK_KEY}\nto " + other.URL + "\n}"})
	script := `node "$0" openai && node "$0" vercel-anthropic && tr '\0' ' ' < /proc/$PPID/cmdline`
	cmd := s.underRun("--upstream mock,claude --json --max-activations 5", "sh", "-c", script, agentScript(t))
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errOut.String())
	}
	var report struct {
		Status int
		Keys   []struct {
			Upstream, Status string
			Used             int64 `json:"used_activations"`
		}
	}
	if err := json.Unmarshal([]byte(errOut.String()), &report); err != nil || len(report.Keys) != 2 {
		t.Fatalf("%v: %s", err, errOut.String())
	}
	for i, name := range []string{"mock", "claude"} {
		if k := report.Keys[i]; k.Upstream != name || k.Status != "revoked" || k.Used != 1 {
			t.Errorf("key %d is %+v", i, k)
		}
	}
	lines := strings.Split(out.String(), "\n")
	if lines[0] != `"hello"` || lines[2] != `"hello"` || strings.Contains(lines[4], "till_sk_") || !strings.Contains(lines[4], "till run") {
		t.Errorf("it printed %s", out.String())
	}
	if n, m := s.upstream.Count(), other.Count(); n != 1 || m != 1 {
		t.Errorf("the upstreams counted %d and %d, want 1 each", n, m)
	}
}

// TestARunOfARoleWithOneUpstreamNeedNotNameIt is about a server with several.
func TestARunOfARoleWithOneUpstreamNeedNotNameIt(t *testing.T) {
	t.Parallel()
	other := upstreamtest.Start(t, upstreamtest.Anthropic, realKey)
	s := newServer(t, options{more: "upstream claude anthropic {\ncredential {env.MOCK_KEY}\nto " + other.URL + "\n}\nrole one {\nupstreams claude\n}"})
	cmd := s.underRun("--role one --max-activations 5", "sh", "-c", "echo $ANTHROPIC_API_KEY+$ANTHROPIC_BASE_URL+$OPENAI_API_KEY")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSpace(string(out)), "+"); !strings.HasPrefix(got[0], "till_sk_") || got[1] == "" || got[2] != "" {
		t.Errorf("it was given %s", out)
	}
	if k := s.theOnlyKey(); k["upstream"] != "claude" || k["status"] != "revoked" {
		t.Errorf("the key is %v", k)
	}
}

func TestARunWhoseServerIsAwayLeavesTheRevocationToItsWatcher(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	ending := filepath.Join(s.dir, "go")
	b := s.begin("ready", s.underRun("", "sh", "-c", `echo ready; while [ ! -e `+ending+` ]; do sleep 0.02; done`))
	s.stop()
	if err := os.WriteFile(ending, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := b.end(t); code != 125 || !strings.Contains(b.stderr.String(), "the key is not revoked") || !strings.Contains(b.stderr.String(), "caddy till revoke key_") {
		t.Errorf("exit status %d: %s", code, b.stderr)
	}
	s.start()
	s.eventually("the watcher has revoked the key", func() bool { return s.theOnlyKey()["status"] == "revoked" })
}

func TestARunOfWhoMayOnlyMintEndsItsKeyAsTheHolder(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "role mint {\npermissions keys:create\n}"})
	console := freePort(t)
	raw, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(string(raw) + "http://" + console + " {\n\ttill_console\n}\n")
	s.reload()
	status, token := s.api("POST", "/tokens", object{"name": "ci", "role": "mint"})
	if status != 201 {
		t.Fatalf("%d %v", status, token)
	}
	cmd := s.underRun("--address http://"+console+"/till/api", "sh", "-c", "exit 3")
	cmd.Env = append(cmd.Env, "TILL_TOKEN="+token["token"].(string))
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("%v: exit status %d: %s", err, code, out)
	}
	if k := s.theOnlyKey(); k["status"] != "revoked" || k["ended_reason"] != "revoked by its holder" || k["role"] != "mint" {
		t.Errorf("the key is %v", k)
	}
}
