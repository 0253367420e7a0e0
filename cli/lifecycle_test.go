package cli_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/admin"
)

func TestUpServesAFirstKeyAndKeepsItsCount(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.up()
	key := r.said.Key
	if key == nil || key.Name != "first" || key.Upstream != "echo" || r.said.Data != m.data {
		t.Fatalf("the greeting is %+v", r.said)
	}
	for i := range 3 {
		if status, body := r.chat(key.ScopedKey); status != 200 || !strings.Contains(body, `"ping"`) {
			t.Fatalf("request %d: %d %s", i+1, status, body)
		}
	}
	if out, errOut, code := m.till("show", "first"); code != 0 || !strings.Contains(out, "2 of 5") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	for _, name := range []string{".", "admin.sock", "echo.sock", "seal.key"} {
		info, err := os.Stat(filepath.Join(m.data, name))
		if err != nil {
			t.Error(err)
		} else if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %04o", name, mode)
		}
	}
	if code := r.end(syscall.SIGINT); code != 0 {
		t.Errorf("up ended with %d", code)
	}
	if got := r.log.String(); !strings.HasPrefix(got, "Stopping.") || strings.Count(got, "\n") != 1 {
		t.Errorf("up logged more than that it stops: %s", got)
	}
	if left, err := filepath.Glob(filepath.Join(m.data, "*.sock")); err != nil || len(left) > 0 {
		t.Errorf("sockets are left: %v %v", left, err)
	}

	// There is no second key while the first lives, and its count is kept.
	r = m.up()
	if r.said.Key != nil {
		t.Errorf("another first key was minted: %+v", r.said.Key)
	}
	for range 2 {
		if status, body := r.chat(key.ScopedKey); status != 200 {
			t.Errorf("after the restart: %d %s", status, body)
		}
	}
	if status, body := r.chat(key.ScopedKey); status != http.StatusPaymentRequired || !strings.Contains(body, "till_activations_exhausted") {
		t.Errorf("the sixth request: %d %s", status, body)
	}
	if out, errOut, code := m.till("list", "--status", "exhausted"); code != 0 || !strings.Contains(out, "5/5") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}

	// The first key has ended, so there is another; and the socket that a killed
	// server leaves behind does no harm.
	r.end(syscall.SIGKILL)
	r = m.up()
	if r.said.Key == nil || r.said.Key.ID == key.ID {
		t.Errorf("the greeting is %+v", r.said)
	}
	if code := r.end(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with %d: %s", code, r.log)
	}
}

func TestUpServesWhatTheEnvironmentHasAKeyFor(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const real = "sk-ant-not-a-real-key"
	r := m.up("ANTHROPIC_API_KEY=" + real)
	if r.said.Key == nil || r.said.Key.Upstream != "anthropic" || len(r.said.Upstreams) != 1 || !r.said.Upstreams[0].Held {
		t.Errorf("the greeting is %+v", r.said)
	}
	if text := r.config(); strings.Contains(text, real) || !strings.Contains(text, "{env.ANTHROPIC_API_KEY}") {
		t.Errorf("the configuration holds the credential, or not its placeholder: %s", text)
	}
	out, errOut, code := m.till("env", r.said.Key.ScopedKey)
	if want := "unset ANTHROPIC_API_KEY\nexport ANTHROPIC_BASE_URL=" + r.said.BaseURL + "\nexport ANTHROPIC_AUTH_TOKEN=" + r.said.Key.ScopedKey + "\n"; code != 0 || out != want {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if code := r.end(syscall.SIGTERM); code != 0 || strings.Contains(r.log.String(), real) {
		t.Errorf("up ended with %d: %s", code, r.log)
	}
}

func TestUpTwiceIsRefusedAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := m.up()
	for name, test := range map[string]struct {
		args     []string
		messages []string
	}{
		"on the same data": {[]string{"--listen", "127.0.0.1:0"}, []string{"up already and serves " + r.said.BaseURL, "admin.sock"}},
		"on the same port": {[]string{"--data", filepath.Join(m.data, "other"), "--listen", strings.TrimPrefix(r.said.BaseURL, "http://")}, []string{"in use", "--listen"}},
	} {
		_, errOut, code := m.till(append([]string{"up"}, test.args...)...)
		for _, message := range test.messages {
			if code != 1 || !strings.Contains(errOut, message) {
				t.Errorf("%s: exit %d without %q: %s", name, code, message, errOut)
			}
		}
	}
	// Another kind of server has the store open.
	if err := os.Remove(filepath.Join(m.data, "admin.sock")); err != nil {
		t.Fatal(err)
	}
	_, errOut, code := m.till("up", "--listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(errOut, "another process has the store in "+m.data+" open") || !strings.Contains(errOut, "--data") {
		t.Errorf("on an open store: exit %d: %s", code, errOut)
	}
	if code := r.end(syscall.SIGTERM); code != 0 {
		t.Errorf("up ended with %d: %s", code, r.log)
	}
}

func TestUsageErrorsEndCaddyWithTwo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, args := range [][]string{{"create"}, {"nope"}, {"up", "--nope"}, {"up", "--listen", "8080"}} {
		if out, errOut, code := m.till(args...); code != 2 || out != "" || strings.Count(errOut, "Error:") != 1 {
			t.Errorf("%v: exit %d: %s%s", args, code, out, errOut)
		}
	}
}

func TestTheConfigurationThatUpPrintsIsWellFormed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	out, errOut, code := m.till("up", "--print-config", "--data", "/srv/till")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	cmd := m.command()
	cmd.Args = []string{os.Args[0], "fmt", "-"}
	cmd.Stdin = strings.NewReader(out)
	formatted, err := cmd.Output()
	if err != nil || string(formatted) != out {
		t.Errorf("%v: caddy fmt makes of\n%s\n%s", err, out, formatted)
	}
}

func TestWithoutATillAppTheEndpointSaysSo(t *testing.T) {
	t.Parallel()
	rec := httptest.NewRecorder()
	err := new(admin.AdminAPI).Routes()[0].Handler.ServeHTTP(rec, httptest.NewRequest("GET", "/till/keys", nil))
	if err != nil || rec.Code != http.StatusServiceUnavailable || !strings.Contains(rec.Body.String(), `"not_configured"`) {
		t.Errorf("answered %d %s, %v", rec.Code, rec.Body, err)
	}
}

// TestUpWaitsForRunningRequests: what `up` says when it stops is true, and a client gets
// the answer that it waits for.
func TestUpWaitsForRunningRequests(t *testing.T) {
	t.Parallel()
	for {
		status, body, took := answeredWhileStopping(t)
		switch {
		// The built-in upstream is a site of this server and takes nothing new any more.
		case status == http.StatusOK && strings.Contains(body, `"ping"`), status == http.StatusBadGateway:
			return
		case took < 5*time.Second:
			t.Fatalf("%s after it began to stop, a request got %d %s", took, status, body)
		}
		t.Logf("the machine is too busy: the body was sent %s after it began to stop", took)
	}
}

// answeredWhileStopping starts a server, stops it while it waits for the body of a
// request, sends that, and returns the answer and how long that was after the signal.
func answeredWhileStopping(t *testing.T) (status int, answer string, took time.Duration) {
	m := newMachine(t)
	r := m.up()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.said.BaseURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	const body = `{"model":"m","messages":[{"role":"user","content":"ping"}]}`
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		r.said.Key.ScopedKey, len(body))
	if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("the body is not asked for: %q %v", line, err)
	}
	began := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		other, err := net.Dial("tcp", conn.RemoteAddr().String())
		if err != nil {
			break
		}
		_ = other.Close()
		if time.Now().After(end) {
			t.Fatalf("%s after it began to stop, it still listens", patience)
		}
	}
	_, err = io.WriteString(conn, body)
	took = time.Since(began)
	if err != nil {
		return 0, err.Error(), took
	}
	if _, err := in.ReadString('\n'); err != nil { // the end of the first answer
		return 0, err.Error(), took
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, err.Error(), took
	}
	all, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error(), took
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("up ended with %s: %s", err, r.log)
	}
	return res.StatusCode, string(all), took
}
