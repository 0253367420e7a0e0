package e2e

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func TestExampleCaddyfileRuns(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	b, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	admin, addr := freePort(t), freePort(t)
	text := strings.Replace(string(b), "{\n\t# Caddy redacts", "{\n\tadmin "+admin+"\n\tpersist_config off\n\t# Caddy redacts", 1)
	text = strings.Replace(text, "http://localhost:8080 {", "http://"+addr+" {", 1)
	path := filepath.Join(s.dir, "Caddyfile.example")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := s.command("run", "--config", path, "--adapter", "caddyfile")
	cmd.Env = append(cmd.Env, "OPENAI_API_KEY="+realKey, "GITHUB_TOKEN="+realKey)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the example answers", func() bool {
		res, err := s.client.Get("http://" + admin + "/till/upstreams")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == 200
	})
	garbled := "till_sk_garbled"
	r, err := http.NewRequest("GET", "http://"+addr+"/v1/models?key="+garbled+"&a=b", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", garbled)
	if res, _ := s.must(r); res.StatusCode != 401 {
		t.Errorf("%d", res.StatusCode)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "writes scoped keys that arrive") || strings.Contains(out.String(), garbled) || !strings.Contains(out.String(), `"uri":"/v1/models?a=b"`) {
		t.Errorf("the log:\n%s", out.String())
	}
}

func TestUpServesAnEchoThatCanBeTriedAtOnce(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "till") // short: a socket's path may have 103 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	env := []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TILL_DATA=" + filepath.Join(dir, "data")}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(caddyBinary, append([]string{"till"}, args...)...)
		endWithTests(cmd)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	var out syncBuffer
	up := exec.Command(caddyBinary, "till", "up", "--listen", freePort(t), "--console", freePort(t))
	endWithTests(up)
	up.Env, up.Stdout, up.Stderr = env, &out, &out
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	(&server{t: t, log: new(bytes.Buffer)}).eventually("up says how to go on", func() bool { return strings.Contains(out.String(), "Stop with Ctrl-C") })
	for line := range strings.SplitSeq(out.String(), "\n") {
		if len(line) > 80 {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "data", "admin.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the management socket: %v %v", info, err)
	}
	paste := regexp.MustCompile(`(?s)\n(curl .*?)\n\n`).FindStringSubmatch(out.String())
	if paste == nil {
		t.Fatal(out.String())
	}
	for i := range 6 {
		answer, err := exec.Command("sh", "-c", paste[1]).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := `"content":"Hi"`
		if i == 5 {
			want = "has used all 5 activations"
		}
		if !strings.Contains(string(answer), want) {
			t.Errorf("call %d: %s", i+1, answer)
		}
	}
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"create"}, "at least one limit", 2},
		{[]string{"create", "--max-activations", "lots"}, "10k", 2},
		{[]string{"create", "--max-activations", "10k", "--name", "nightly", "--rate", "60/m"}, "till_sk_", 0},
		{[]string{"list"}, "nightly", 0},
		{[]string{"list", "--json"}, `"keys": [`, 0},
		{[]string{"show", "nightly"}, "10000 activations, 60/m", 0},
		{[]string{"grant", "first", "--activations", "2"}, "Granted more to key_", 0},
		{[]string{"suspend", "nightly"}, "Suspended key_", 0},
		{[]string{"resume", "nightly"}, "Resumed key_", 0},
		{[]string{"env", "nightly"}, "export OPENAI_API_KEY=", 0},
		{[]string{"revoke", "nightly", "--reason", "done"}, "Revoked key_", 0},
		{[]string{"grant", "nightly", "--activations", "2"}, "cannot be undone", 1},
		{[]string{"forget", "nightly"}, "Forgot key_", 0},
		{[]string{"show", "nightly"}, "no key has the id or name", 1},
		{[]string{"show", "till_sk_secret"}, "belongs in no", 2},
		{[]string{"stats"}, "in order", 0},
		{[]string{"doctor"}, "0 errors, ", 0},
		{[]string{"create", "--unlimited", "--name", "open"}, "till_sk_", 0},
		{[]string{"doctor"}, "ERROR unlimited_keys: 1 key has no limit at all", 1},
		{[]string{"doctor", "--json"}, `"errors": 1`, 1},
		{[]string{"doctor", "--config", "/no/such/Caddyfile"}, "no such file", 1},
		{[]string{"up"}, "up already", 1},
		{[]string{"create", "--frob"}, "frob", 2},
	} {
		out, err := run(test.args...)
		code := 0
		if exit, ok := err.(*exec.ExitError); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, test.want) || code != test.code {
			t.Errorf("till %v: exit %d, want %d and %q:\n%s", test.args, code, test.code, test.want, out)
		}
		if strings.Contains(out, "till_sk_secret") {
			t.Errorf("till %v repeats the key", test.args)
		}
	}
	if err := up.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}
