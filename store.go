package till

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/store"
)

func init() {
	caddy.RegisterModule(BadgerStore{})
}

// Storage is what a guest module of the namespace till.stores provides.
type Storage interface {
	// Place says which store it is, and where the files beside it are.
	Place() Place
	// OpenStore opens it. It is called at Start or on first use, never while
	// a configuration is only validated.
	OpenStore(StoreOpening) (OpenedStore, error)
}

// Place says which store a configuration means, and where this machine keeps the files
// that belong to it.
type Place struct {
	// Identity names the store in this process: two configurations that name the
	// same store must have the same text.
	Identity string
	// Dir is the directory of the files beside the store.
	Dir string
	// Mark is part of these files' names where Dir may also have those of other stores.
	// Default: none.
	Mark string
	// Shared says that other nodes have the store open at the same time. Then it is
	// a [store.Shared], and has no anchor.
	Shared bool
	// Way is how the store is reached, as a text without a secret that changes with it:
	// if it changes, an open store is opened again. Default: always the same.
	Way string
}

// File is the path of a file beside the store.
func (p Place) File(name string) string {
	if p.Mark != "" {
		name += "-" + p.Mark
	}
	return filepath.Join(p.Dir, name)
}

// StoreOpening is what a store is opened with.
type StoreOpening struct {
	Log *slog.Logger
	// Configuration returns what the configurations of all nodes must have in
	// common, as [wire.CommonConfiguration] writes it.
	Configuration func() string
	// After is what OpenStore has returned before, if the store was open in this process
	// and is closed now. Default: none.
	After store.Store
}

// OpenedStore is a store and the clock by which its limits are judged.
type OpenedStore struct {
	store.Store
	// Clock is that of the store. Default: the machine's.
	Clock commit.Clock
}

// BadgerStore keeps keys and counts in an embedded Badger directory: the store of a
// single server.
type BadgerStore struct {
	// The directory. It is created with mode 0700 if it is missing, and an empty one of
	// the server's user that others can only read is given that mode. Otherwise it must
	// not be readable by others. It can be open in one process only. Default: "till" in
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

// Place implements Storage.
func (s *BadgerStore) Place() Place { return Place{Identity: s.Path, Dir: s.Path} }

// OpenStore implements Storage.
func (s *BadgerStore) OpenStore(o StoreOpening) (OpenedStore, error) {
	opened, err := store.OpenBadger(s.Path, o.Log)
	return OpenedStore{Store: opened}, err
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

var errAnchorOfShared = errors.New("anchor belongs to store badger: the nodes that share a database witness that it loses nothing, so take the anchor out")

// Interface guards
var (
	_ caddy.Provisioner     = (*BadgerStore)(nil)
	_ caddyfile.Unmarshaler = (*BadgerStore)(nil)
	_ Storage               = (*BadgerStore)(nil)
)
