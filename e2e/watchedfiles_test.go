package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// secretFile is a file of the configuration that is changed while it is in use.
type secretFile struct {
	t    *testing.T
	path string
}

func (f *secretFile) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *secretFile) over(text string) { f.must(os.WriteFile(f.path, []byte(text), 0o600)) }

func (f *secretFile) moved(text string) {
	f.must(os.WriteFile(f.path+".new", []byte(text), 0o600))
	f.must(os.Rename(f.path+".new", f.path))
}

// rewrite changes the file as an editor does that keeps the former text.
func (f *secretFile) rewrite(text string) {
	f.must(os.Rename(f.path, f.path+"~"))
	f.over(text)
}

// inParts is a writer that stops at no line. It does not wait for the disk between its
// parts: that may take longer than what till gives a writer to finish.
func (f *secretFile) inParts(text string) {
	to, err := os.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
	f.must(err)
	for _, part := range []string{text[:len(text)/2], text[len(text)/2:]} {
		_, err := to.WriteString(part)
		f.must(err)
	}
	f.must(to.Close())
}

// link turns a link to a directory, as Kubernetes does with its secrets.
func (f *secretFile) link(text string) {
	at, err := os.MkdirTemp(filepath.Dir(f.path), "..version")
	f.must(err)
	name := filepath.Base(f.path)
	f.must(os.WriteFile(filepath.Join(at, name), []byte(text), 0o600))
	data := filepath.Join(filepath.Dir(f.path), "..data")
	f.must(os.Symlink(at, data+".tmp"))
	f.must(os.Rename(data+".tmp", data))
	f.must(os.Symlink(filepath.Join("..data", name), f.path+".tmp"))
	f.must(os.Rename(f.path+".tmp", f.path))
}

// A held credential is rotated by writing the new one into its file, while the old
// one is still good: the runbook in docs/runbooks.md. Nothing is reloaded, so no
// client notices anything, however the file is written; and what is no credential
// leaves the last one in force.
func TestRotatingAHeldCredentialUnderLoadFailsNoRequest(t *testing.T) {
	t.Parallel()
	const clients = 8
	s := newServer(t, options{})
	f := &secretFile{t, filepath.Join(s.dir, "credential")}
	credential := func(n int) string { return fmt.Sprintf("sk-real-rotated-%02d-0123456789abcdef", n) }
	f.over(credential(0) + "\n")
	s.upstream.Accept(credential(0))
	s.replace("{env.MOCK_KEY}", "{file."+f.path+"}")
	s.reload()
	if n := s.upstream.Retire(realKey); n != 0 {
		t.Fatalf("%d requests before the test", n)
	}
	s.upstream.SetLatency(400 * time.Millisecond) // all clients have requests on their way
	id, key := s.mint(object{"max_activations": 1_000_000})

	stop := make(chan struct{})
	var begun [clients]atomic.Int64 // requests of each
	var failed atomic.Int64
	var group sync.WaitGroup
	for i := range begun {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				begun[i].Add(1)
				res, err := s.client.Do(s.request(context.Background(), key))
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err != nil || res.StatusCode != http.StatusOK {
					failed.Add(1)
					t.Errorf("a request failed: %v, %v", err, res)
				}
			}
		})
	}
	moves := func() { // each client has its answer to what it asked before, and goes on
		for i := range begun {
			before := begun[i].Load()
			s.eventually("requests go on", func() bool { return begun[i].Load() > before })
		}
	}
	moves()
	ways := []func(string){f.moved, f.over, f.rewrite, f.inParts, f.link, f.link, f.moved}
	for i, write := range ways {
		n := i + 1
		s.upstream.Accept(credential(n))
		write(credential(n) + "\n")
		s.eventually("the new credential is used", func() bool { return s.upstream.Uses(credential(n)) > 0 })
		moves()
		if s.upstream.Retire(credential(n-1)) == 0 {
			t.Errorf("credential %d was never used", n-1)
		}
	}
	last := len(ways)
	for what, spoil := range map[string]func(){
		"is empty":            func() { f.over("") },
		"has a byte order":    func() { f.over("\ufeff" + credential(last)) },
		"NAME=value":          func() { f.moved("OPENAI_API_KEY=" + credential(last)) },
		"is a directory":      func() { f.must(os.Remove(f.path)); f.must(os.Mkdir(f.path, 0o700)) },
		"no such file":        func() { f.must(os.Remove(f.path)) },
		"is longer than":      func() { f.over(strings.Repeat("sk-real-rotated-", 1<<13)) },
		"begins with a word ": func() { f.moved("Bearer " + credential(last)) },
	} {
		spoil()
		s.says(what) // which costs less to look for than what doctor says
		s.eventually("doctor says that it "+what, func() bool {
			d := s.diagnosis()
			return slices.ContainsFunc(d.Findings, func(f diagnosed) bool { return f.Check == "file_not_taken" && strings.Contains(f.What, what) })
		})
		moves()
		s.says("a changed file was rejected")
		if err := os.RemoveAll(f.path); err != nil {
			t.Fatal(err)
		}
		f.moved(credential(last) + "\n")
		s.eventually("doctor is content again", func() bool {
			d := s.diagnosis()
			return len(d.Files) > 0 && !slices.ContainsFunc(d.Findings, func(f diagnosed) bool { return f.Check == "file_not_taken" })
		})
	}
	close(stop)
	group.Wait()
	sent := int64(0)
	for i := range begun {
		sent += begun[i].Load()
	}
	if n := s.used(id); n != sent || s.upstream.Count() != n || failed.Load() != 0 {
		t.Errorf("sent %d, failed %d, used %d, the upstream saw %d", sent, failed.Load(), n, s.upstream.Count())
	}
	t.Logf("%d rotations under %d clients: %d requests, %d failed", len(ways), clients, sent, failed.Load())
	if text := s.output(); strings.Contains(text, "till_upstream_auth_failed") || strings.Contains(text, "sk-real-rotated") {
		t.Errorf("the log:\n%s", text)
	}
	s.clean()
}

type diagnosed struct{ Check, Level, What, Fix string }

type diagnosis struct {
	Findings []diagnosed
	Files    []struct {
		Subject   string
		ReadFrom  []string `json:"read_from"`
		CheckedAt string   `json:"checked_at"`
		ChangedAt string   `json:"changed_at"`
		NotTaken  string   `json:"not_taken"`
	}
}

// diagnosis is what doctor says of the server.
func (s *server) diagnosis() (d diagnosis) {
	s.t.Helper()
	res, err := s.client.Get("http://" + s.admin + "/till/doctor")
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&d); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// TestPricesAndSecretsOfWebhooksAndBoxesChangeWithTheirFiles: what a file held
// before is replaced while the server runs, and never by what would lose a key.
func TestPricesAndSecretsOfWebhooksAndBoxesChangeWithTheirFiles(t *testing.T) {
	t.Parallel()
	in := newInbox(t, hookKey)
	dir := t.TempDir()
	at := func(name string) *secretFile { return &secretFile{t, filepath.Join(dir, name)} }
	priced := func(output int) string {
		return fmt.Sprintf(`{"schema":"till.prices/1","models":[{"provider":"openai","id":"mine","input":1,"output":%d}]}`, output)
	}
	at("seal").over(sealKeyA)
	at("hook").over("whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXI=")
	at("prices").over(priced(2))
	s, _ := sealedServer(t, fmt.Sprintf("seal_key {file.%s}\nprices %s\nwebhook %s {\n\tsecret {file.%s}\n\tevents key_created\n}", at("seal").path, at("prices").path, in.URL, at("hook").path))
	changed := func(name string) func() bool {
		return func() bool {
			for _, f := range s.diagnosis().Files {
				if f.ReadFrom[0] == at(name).path {
					return f.ChangedAt != "" && f.NotTaken == ""
				}
			}
			return false
		}
	}
	at("hook").moved(hookSecret) // before any event is sent: the inbox knows no other secret
	s.eventually("the webhook's secret changed", changed("hook"))
	id, sealed := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 50})
	s.eventually("the webhook was told", func() bool { return len(in.names(id)) == 1 })

	for what, text := range map[string]string{
		"Bearer": "Bearer " + sealedReal, "NAME=value": "OPENAI_API_KEY=" + sealedReal, "quotes": `"` + sealedReal + `"`,
		"byte order mark": "\ufeff" + sealedReal, "spaces": sealedReal + " # Anna's", "scoped key": sealed,
	} {
		status, answer := s.api("POST", "/keys", object{"upstream": "x", "upstream_key": text, "max_activations": 1})
		if said := fmt.Sprint(answer); status != http.StatusBadRequest || !strings.Contains(said, what) || !strings.Contains(said, "upstream_key") || strings.Contains(said, sealedReal) {
			t.Errorf("minting with %s: %d %v", what, status, answer)
		}
		if status, answer := s.api("POST", "/keys/"+id+"/rotate", object{"upstream_key": text}); status != http.StatusBadRequest {
			t.Errorf("rotating with %s: %d %v", what, status, answer)
		}
	}

	at("prices").over(priced(4))
	s.eventually("the price changed", changed("prices"))
	if out := s.caddyTill("prices", "openai/mine"); !strings.Contains(out, "4") {
		t.Errorf("prices printed\n%s", out)
	}

	// Another seal key in place of the first would lose the sealed key.
	at("seal").moved(sealKeyB)
	s.eventually("doctor says that the seal key is needed", func() bool {
		return slices.ContainsFunc(s.diagnosis().Findings, func(f diagnosed) bool {
			return f.Check == "file_not_taken" && strings.Contains(f.What, "1 live and 0 ended keys need it")
		})
	})
	if status, code := s.sends(sealed); status != http.StatusOK {
		t.Errorf("the sealed key: %d %s", status, code)
	}
	// Once no key needs it, it may go, and the file as it stands is taken.
	if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{}); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	s.eventually("the seal key changed", changed("seal"))
	next, another := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 50})
	if status, code := s.sends(another); status != http.StatusOK {
		t.Errorf("a key sealed with the new one: %d %s", status, code)
	}
	// The new one in front, with the old behind: a change of the configuration.
	if out := s.caddyTill("seal"); strings.Count(out, "seals") != 1 || strings.Contains(out, "missing") {
		t.Errorf("seal printed\n%s", out)
	}
	s.eventually("the webhook was told again", func() bool { return len(in.names(next)) == 1 })
	for _, secret := range []string{sealKeyA, sealKeyB, hookSecret, hookKey} {
		if strings.Contains(s.output(), secret) {
			t.Error("the log shows a secret")
		}
	}
}
