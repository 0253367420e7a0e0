package till

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/till-proxy/till/limiter/store"
)

func init() {
	caddy.RegisterModule(BadgerStore{})
}

// Storage is what a guest module of the namespace till.stores provides.
type Storage interface {
	// Identity names the store in this process: two configurations that name
	// the same store must return the same text.
	Identity() string
	// OpenStore opens it. It is called at Start or on first use, never while
	// a configuration is only validated.
	OpenStore(identity string, log *slog.Logger) (store.Store, error)
}

// BadgerStore keeps keys and counts in an embedded Badger directory: the store of a
// single server.
type BadgerStore struct {
	// The directory. It is created with mode 0700 if it is missing, must not be
	// readable by others, and can be open in one process only. Default: "till" in
	// Caddy's data directory.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (BadgerStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "till.stores.badger", New: func() caddy.Module { return new(BadgerStore) }}
}

// Provision resolves the path.
func (s *BadgerStore) Provision(caddy.Context) error {
	if s.Path == "" {
		s.Path = filepath.Join(caddy.AppDataDir(), "till")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(s.Path, true, true)
	if err != nil {
		return fmt.Errorf("store badger: path: %w", err)
	}
	if s.Path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("store badger: path: %w", err)
	}
	// A directory has one identity, whichever link leads to it.
	if real, err := filepath.EvalSymlinks(s.Path); err == nil {
		s.Path = real
	} else if parent, err := filepath.EvalSymlinks(filepath.Dir(s.Path)); err == nil {
		s.Path = filepath.Join(parent, filepath.Base(s.Path))
	}
	return nil
}

// Identity implements Storage.
func (s *BadgerStore) Identity() string { return s.Path }

// OpenStore implements Storage.
func (s *BadgerStore) OpenStore(dir string, log *slog.Logger) (store.Store, error) {
	return store.OpenBadger(dir, log)
}

// UnmarshalCaddyfile reads:
//
//	badger [<path>]
func (s *BadgerStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	switch args := d.RemainingArgs(); len(args) {
	case 0:
	case 1:
		s.Path = args[0]
	default:
		return d.Err("store badger takes one path")
	}
	if d.NextBlock(0) {
		return d.Errf("store badger has no options, got %q", d.Val())
	}
	return nil
}

var errNoStorage = errors.New("the store's module is not a till store")

// Interface guards
var (
	_ caddy.Provisioner     = (*BadgerStore)(nil)
	_ caddyfile.Unmarshaler = (*BadgerStore)(nil)
	_ Storage               = (*BadgerStore)(nil)
)
