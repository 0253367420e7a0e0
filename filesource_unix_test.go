//go:build unix

package till

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// TestAFileThatBecomesAPipeKeepsNobodyWaiting: one check reads all files, so one that
// waits for a writer would block all of them.
func TestAFileThatBecomesAPipeKeepsNobodyWaiting(t *testing.T) {
	a := newFileApp(t)
	dir := t.TempDir()
	file(t, filepath.Join(dir, "made"), strings.Repeat("5e", 32)+"\n", 0o600)
	own, err := configured(t, strings.ReplaceAll(`{
	storage file_system DIR/caddy
	till {
		store badger DIR/store
		seal_key_file DIR/made
		upstream openai
	}
}
`, "DIR", dir))
	if err != nil {
		t.Fatal(err)
	}
	before := a.now()
	for _, s := range append(a.sources, own.sources...) {
		path := s.paths[0]
		rename(t, path, path+".gone")
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		looked := make(chan struct{})
		go func() {
			defer close(looked)
			s.check(t.Context(), zap.NewNop())
			s.check(t.Context(), zap.NewNop())
		}()
		select {
		case <-looked:
		case <-time.After(patience):
			t.Fatalf("%s is waited for", s.what)
		}
		if f := s.state(); !strings.Contains(f.Trouble, "is not a regular file") {
			t.Errorf("reported: %+v", f)
		}
	}
	if now := a.now(); now["key"] != before["key"] || now["hook"] != before["hook"] || now["prices"] != before["prices"] {
		t.Errorf("in force are %v, want %v", now, before)
	}
}

// TestAFileThatBecomesAPipeWhileItIsLookedAtKeepsNobodyWaiting switches a link between
// both, as fast as it can.
func TestAFileThatBecomesAPipeWhileItIsLookedAtKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	file(t, at("file"), "sk-first-0123456789", 0o600)
	if err := syscall.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	symlink(t, at("file"), at("key"))
	s := &fileSource{paths: []string{at("key")}, maxSize: maxSecretFile}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Symlink(at([]string{"pipe", "file"}[i%2]), at("next"))
			_ = os.Rename(at("next"), at("key"))
		}
	}()
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for range 5000 {
			s.read()
		}
	}()
	select {
	case <-looked:
	case <-time.After(patience):
		t.Error("a pipe is waited for")
	}
	close(stop)
	<-stopped
}
