package till

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter/store"
)

// A node that shares a store is known by its name, under which it finds what it had
// reserved when it is started again. Unless the configuration names it, this machine
// makes a name once and keeps it.

// nodeDir is where this machine keeps the files of its node.
func nodeDir() string { return filepath.Join(caddy.AppDataDir(), "till") }

func nodeFile() string { return filepath.Join(nodeDir(), "node") }

// keptNodeName returns the name that was made before.
func keptNodeName() (string, error) {
	b, err := os.ReadFile(nodeFile())
	if err != nil {
		return "", fmt.Errorf("reading the name of this node: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if !nodeName.MatchString(name) {
		return "", fmt.Errorf("%s must hold the name of this node, got %.64q: remove the file, so that another is made, or write in the store's block: node till-1", nodeFile(), name)
	}
	return name, nil
}

// loadOrMakeNodeName returns the name of this machine's node, and makes it at the first
// start.
func loadOrMakeNodeName() (string, error) {
	name, err := keptNodeName()
	if !errors.Is(err, fs.ErrNotExist) {
		return name, err
	}
	if err := makeNodeName(); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("keeping the name of this node: %w", err)
	}
	return keptNodeName()
}

// makeNodeName writes a random name. If several processes do, the first wins.
func makeNodeName() error {
	dir := nodeDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".node-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the name stays under the other path
	_, err = f.WriteString("node-" + strings.ToLower(rand.Text()[:8]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), nodeFile()); err != nil {
		return err
	}
	return store.SyncDir(dir)
}
