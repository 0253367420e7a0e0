package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// toolUse is something that a program does with a scoped key. docs/apis.md has a row for
// each, which TestTheTableOfAPIs holds to this.
type toolUse struct {
	name string
	// line is what a shell runs. TILL is the server's address, HOST the same without
	// the scheme, AUTHED with the key in it. Where file is set, that is run instead,
	// and line stands in source, or in file.
	line, file, source string
	needs              []string // programs
	long               bool     // run by make clients alone
	secure             bool     // over TLS
	activations        int64
	free               int64  // requests that cost nothing
	says               string // what it prints when it works
	dead               string // what it prints when its key is dead
	setup              func(*stage)
}

// stage is where a use takes place.
type stage struct {
	*testing.T
	dir      string // for what is prepared
	options  options
	env      []string
	besides  int64 // activations that this machine's program takes beside those
	upstream *watched
	server   *server
	base     string // its address
	takes    int64  // activations
}

var toolUses = slices.Concat(gitUses, fetchUses, registryUses, pageUses, davUses, kubeUses, npmUses, mcpUses, liveUses)

// TestToolsOnKeys lets each program do what it does with a key of just as many
// activations as that takes, and then once more; and with a key of one less.
func TestToolsOnKeys(t *testing.T) {
	t.Parallel()
	for _, u := range toolUses {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			if u.long && os.Getenv("TILL_CLIENTS") == "" {
				t.Skip("TILL_CLIENTS is not set; run: make clients")
			}
			for _, program := range u.needs {
				if _, err := exec.LookPath(program); err != nil {
					t.Fatalf("%v; run: ./scripts/need.sh %s", err, program)
				}
			}
			t.Run("enough", u.withEnough)
			if u.activations > 1 {
				t.Run("one too few", u.withTooFew)
			}
		})
	}
}

func (u toolUse) withEnough(t *testing.T) {
	st := u.begin(t)
	id, key := st.server.mint(object{"max_activations": st.takes})
	out, err := st.run(u, key)
	requests, faults := st.upstream.log()
	if err != nil || !strings.Contains(out, u.says) {
		t.Fatalf("%v\n%s\nwant %q; the upstream got %q, %q", err, out, u.says, requests, faults)
	}
	if n := st.server.used(id); n != st.takes || int64(len(requests)) != n+u.free || len(faults) > 0 {
		t.Errorf("it used %d, want %d; the upstream got %q, %q\n%s", n, st.takes, requests, faults, out)
	}
	out, err = st.run(u, key)
	if err == nil || !strings.Contains(out, u.dead) {
		t.Errorf("with a dead key: %v, want %q in\n%s", err, u.dead, out)
	}
	if requests, _ := st.upstream.log(); len(requests) > 0 || strings.Contains(out, realKey) {
		t.Errorf("with a dead key the upstream got %q\n%s", requests, out)
	}
}

// withTooFew has a program whose key ends before its last request: it must not say
// that all is well.
func (u toolUse) withTooFew(t *testing.T) {
	st := u.begin(t)
	id, key := st.server.mint(object{"max_activations": st.takes - 1})
	out, err := st.run(u, key)
	requests, faults := st.upstream.log()
	if n := st.server.used(id); err == nil || n != st.takes-1 || int64(len(requests)) > n+u.free || len(faults) > 0 || strings.Contains(out, realKey) {
		t.Errorf("%v; it used %d of %d, and the upstream got %q, %q\n%s", err, n, st.takes-1, requests, faults, out)
	}
}

// begin starts what a use needs.
func (u toolUse) begin(t *testing.T) *stage {
	t.Helper()
	st := &stage{T: t, dir: t.TempDir(), options: options{vendor: upstreamtest.Any}, upstream: watch(t)}
	u.setup(st)
	if st.options.to == "" {
		st.options.to = st.upstream.URL
	}
	if u.secure {
		st.secure()
	}
	st.server = newServer(t, st.options)
	if st.base == "" {
		st.base = "http://" + st.server.addr
	}
	st.takes = u.activations + st.besides
	st.upstream.log() // of what was prepared
	return st
}

// run lets the program do it, in a directory of its own beside what was prepared.
func (st *stage) run(u toolUse, key string) (string, error) {
	st.Helper()
	ctx, cancel := context.WithTimeout(st.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-ec", u.line)
	if u.file != "" {
		file, err := filepath.Abs(u.file)
		if err != nil {
			st.Fatal(err)
		}
		runs := map[string]string{".mjs": "node", ".py": "python3", ".java": "java"}[filepath.Ext(file)]
		cmd = exec.CommandContext(ctx, runs, file)
	}
	endWithTests(cmd)
	cmd.WaitDelay = patience // for pipes of programs that it left
	cmd.Dir = st.TempDir()
	if err := os.CopyFS(cmd.Dir, os.DirFS(st.prepared())); err != nil {
		st.Fatal(err)
	}
	cmd.Env = st.variables(st.base, key)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		st.Fatalf("it has not ended in %s:\n%s", patience, out)
	}
	return string(out), err
}

// prepared is a directory whose files a use finds where it runs.
func (st *stage) prepared() string {
	st.Helper()
	dir := filepath.Join(st.dir, "prepared")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		st.Fatal(err)
	}
	return dir
}

// prepare runs a command in that directory, and with the real key at the upstream.
func (st *stage) prepare(line string) {
	st.Helper()
	cmd := exec.CommandContext(st.Context(), "sh", "-ec", line)
	endWithTests(cmd)
	cmd.Dir = st.prepared()
	cmd.Env = st.variables(st.upstream.URL, realKey)
	if out, err := cmd.CombinedOutput(); err != nil {
		st.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// variables are those that lines refer to, and a home that nobody has used.
func (st *stage) variables(base, key string) []string {
	st.Helper()
	scheme, host, _ := strings.Cut(base, "://")
	home := st.TempDir()
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C.UTF-8",
		"KEY=" + key, "TILL=" + base, "HOST=" + host, "AUTHED=" + scheme + "://x:" + key + "@" + host}, st.env...)
}

// write puts a file into that directory.
func (st *stage) write(name string, content []byte) {
	st.Helper()
	path := filepath.Join(st.prepared(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		st.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		st.Fatal(err)
	}
}

// secure adds a site with a certificate that the programs trust.
func (st *stage) secure() {
	st.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		st.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		st.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		st.Fatal(err)
	}
	certFile, keyFile := filepath.Join(st.dir, "cert.pem"), filepath.Join(st.dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			st.Fatal(err)
		}
	}
	_, port, err := net.SplitHostPort(freePort(st.T))
	if err != nil {
		st.Fatal(err)
	}
	st.options.sites += fmt.Sprintf("https://localhost:%s {\n\ttls %s %s\n\t%s\n\ttill\n}\n", port, certFile, keyFile, st.options.site)
	st.env = append(st.env, "SSL_CERT_FILE="+certFile)
	st.base = "https://localhost:" + port
}

// TestTheTableOfAPIs holds docs/apis.md to what is run.
func TestTheTableOfAPIs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/apis.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]string)
	for _, m := range regexp.MustCompile("(?m)^\\| ([^|]+) \\| `([^`]+)` \\| (\\d+) \\| `([^`]+)` \\|$").FindAllStringSubmatch(string(text), -1) {
		rows[m[1]] = m[2:]
	}
	for _, u := range toolUses {
		want := []string{strings.ReplaceAll(u.line, "|", `\|`), strconv.FormatInt(u.activations, 10), u.dead}
		if got := rows[u.name]; strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("docs/apis.md should have\n| %s | `%s` | %s | `%s` |\nand has %q", u.name, want[0], want[1], want[2], got)
		}
		delete(rows, u.name)
		if u.file == "" {
			continue
		}
		source := u.file
		if u.source != "" {
			source = u.source
		}
		if program, err := os.ReadFile(source); err != nil || !strings.Contains(string(program), u.line) {
			t.Errorf("%s does not have %q: %v", source, u.line, err)
		}
	}
	for name := range rows {
		t.Errorf("docs/apis.md has %q, which nothing runs", name)
	}
	versions := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^\| (\S+) \| ([\d.]+) \|$`).FindAllStringSubmatch(string(text), -1) {
		versions[m[1]] = m[2]
	}
	var needed []string
	for _, u := range toolUses {
		needed = append(needed, u.needs...)
	}
	slices.Sort(needed)
	for _, program := range slices.Compact(needed) {
		if versions[program] == "" {
			t.Errorf("docs/apis.md has no version of %s", program)
		}
	}
	for _, of := range []struct {
		file     string
		packages []string
	}{
		{"tools/package.json", []string{"@modelcontextprotocol/sdk", "npm", "octokit", "verdaccio"}},
		{"sdk/package.json", []string{"@google/genai"}},
	} {
		var declared struct{ Dependencies map[string]string }
		if b, err := os.ReadFile(of.file); err != nil || json.Unmarshal(b, &declared) != nil {
			t.Fatalf("%s: %v", of.file, err)
		}
		for _, name := range of.packages {
			if want := declared.Dependencies[name]; want == "" || versions[name] != want {
				t.Errorf("docs/apis.md has %s %q, and %s %q", name, versions[name], of.file, want)
			}
		}
	}
}
