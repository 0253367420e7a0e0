package till

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

func init() {
	caddy.RegisterModule(new(PostgresStore))
}

// PostgresStore keeps keys and counts in a PostgreSQL database, which several servers
// share: each budget holds over all of them. These servers are its nodes.
type PostgresStore struct {
	// Where the database is, as a URL or in keywords: `postgres://till@db/till`. It
	// holds a password, so use `{env.*}` or `{file.*}`, which is watched: a changed
	// password takes effect within seconds. A literal would be visible in the
	// configuration that the admin endpoint shows. Required.
	DSN string `json:"dsn"`

	// Where the database is without the pooler that dsn goes through: nodes wait there
	// for each other's changes. Without it, a node behind a pooler in transaction mode
	// asks once a second. Default: as dsn.
	Listen string `json:"listen,omitempty"`

	// The schema in the database that holds everything. It is made at the first start.
	// Default: "till".
	Schema string `json:"schema,omitempty"`

	// How many connections this node has at most, at least 3. Default: 8.
	MaxConns int `json:"max_conns,omitempty"`

	// The name of this node, which no other may have, and which stays the same over a
	// restart: a node that comes back with it knows what it had reserved. Placeholders
	// are resolved. Default: a random name that is made at the first start and kept in
	// "till/node" of Caddy's data directory; with another disk, it is another node.
	Node string `json:"node,omitempty"`

	address atomic.Pointer[databaseAddress]
}

// databaseAddress is how the database is reached.
type databaseAddress struct {
	dsn, listen token.Secret
	database    string
	identity    string // see Place
}

var postgresOptions = []string{"schema", "max_conns", "listen", "node"}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CaddyModule returns the Caddy module information.
func (*PostgresStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "till.stores.postgres", New: func() caddy.Module { return new(PostgresStore) }}
}

// Provision checks the settings. It connects to nothing.
func (s *PostgresStore) Provision(caddy.Context) error {
	if s.Node != "" {
		name, err := caddy.NewReplacer().ReplaceOrErr(s.Node, true, true)
		if err != nil {
			return fmt.Errorf("store postgres: node: %w", err)
		}
		s.Node = name
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("store postgres: %w", err)
	}
	return nil
}

// check checks the settings, and sets the defaults.
func (s *PostgresStore) check() error {
	if s.DSN == "" {
		return errors.New("needs the address of the database: dsn {env.TILL_DATABASE_URL}")
	}
	o := postgres.Options{Schema: s.Schema, MaxConns: s.MaxConns}
	if err := o.Complete(); err != nil {
		return err
	}
	s.Schema, s.MaxConns = o.Schema, o.MaxConns
	if s.Node != "" && !nodeName.MatchString(s.Node) {
		return fmt.Errorf("node must be a name of up to 63 letters, digits, dots, underscores and hyphens, such as till-1, got %q", s.Node)
	}
	return nil
}

// parseDSN reads a DSN. Its errors do not quote it, because it holds a password.
func parseDSN(dsn string) (*pgconn.Config, error) {
	conf, err := pgconn.ParseConfig(dsn)
	if err != nil {
		var missing *fs.PathError // a certificate, for one
		if errors.As(err, &missing) && !strings.Contains(missing.Path, "@") {
			return nil, missing
		}
		return nil, errors.New("cannot be read: write it as postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, with %40 for an @ and %2F for a / in the password; the text is not shown because of the password in it")
	}
	if conf.Database == "" {
		return nil, errors.New("names no database: end it with /DATABASE, such as postgres://till@db.internal/till")
	}
	return conf, nil
}

// setAddress takes the resolved DSNs.
func (s *PostgresStore) setAddress(dsn, listen string) (changed bool, err error) {
	dsn, listen = strings.TrimSpace(dsn), strings.TrimSpace(listen)
	conf, err := parseDSN(dsn)
	if err != nil {
		return false, fmt.Errorf("dsn %w", err)
	}
	next := &databaseAddress{dsn: token.NewSecret(dsn), listen: token.NewSecret(listen), database: conf.Database}
	if listen != "" {
		direct, err := parseDSN(listen)
		if err != nil {
			return false, fmt.Errorf("listen %w", err)
		}
		if direct.Database != conf.Database {
			// A pooler may serve a database under another name, and then the nodes
			// would not hear of each other: so the names have to be the same.
			return false, fmt.Errorf("listen names the database %s and dsn %s: both must lead to the same one", direct.Database, conf.Database)
		}
	}
	former := s.address.Load()
	switch {
	case former == nil:
		next.identity = s.identify(conf.Database)
	case former.database != next.database:
		return false, fmt.Errorf("names the database %s now, and %s before: to use another one, reload the configuration", next.database, former.database)
	case former.dsn.Reveal() == dsn && former.listen.Reveal() == listen:
		return false, nil
	}
	if former != nil {
		next.identity = former.identity
	}
	s.address.Store(next)
	return true, nil
}

// followAddress resolves the DSNs, and follows the files that they are in.
func (a *App) followAddress() error {
	texts := []string{a.database.DSN, a.database.Listen}
	return a.followFiles("the address of the database", texts, func(_ context.Context, values []string) (bool, error) {
		changed, err := a.database.setAddress(values[0], values[1])
		if err != nil || !changed || a.engine == nil || !a.engine.runs(a) {
			return changed, err
		}
		return true, a.engine.reconnect(a.storeOptions())
	})
}

// literals reports whether the configuration itself contains the password.
func (s *PostgresStore) literals() bool {
	for _, text := range []string{s.DSN, s.Listen} {
		if !literal(text) {
			continue
		}
		if conf, err := pgconn.ParseConfig(text); err != nil || conf.Password != "" && strings.Contains(text, conf.Password) {
			return true
		}
	}
	return false
}

// Place implements Storage. The server of the database is not part of the identity: a
// database that moves keeps its nodes, and what they have witnessed of it.
func (s *PostgresStore) Place() Place {
	at := s.address.Load()
	sum := sha256.Sum256([]byte(at.identity))
	way := sha256.Sum256([]byte(strconv.Quote(at.dsn.Reveal()) + strconv.Quote(at.listen.Reveal()) + strconv.Itoa(s.MaxConns)))
	return Place{Identity: at.identity, Dir: nodeDir(), Mark: hex.EncodeToString(sum[:6]), Shared: true, Way: hex.EncodeToString(way[:])}
}

// identify names the store in this process. The node's name is part of that only if it
// is configured and is not the one that this machine has made for itself: so a store
// without a configured name has the same identity before and after its name is made.
func (s *PostgresStore) identify(database string) string {
	identity := "database " + database + ", schema " + s.Schema
	if kept, err := keptNodeName(); s.Node != "" && (err != nil || s.Node != kept) {
		identity += ", node " + s.Node
	}
	return identity
}

// OpenStore implements Storage.
func (s *PostgresStore) OpenStore(o StoreOpening) (OpenedStore, error) {
	options, err := s.options(o)
	if err != nil {
		return OpenedStore{}, err
	}
	opened, err := postgres.Open(context.Background(), options)
	if err != nil {
		return OpenedStore{}, err
	}
	return OpenedStore{Store: opened, Clock: opened.Clock()}, nil
}

// openDoubted opens a database that its nodes doubt, or that this node alone doubts, for
// the reason that why states: to look at it, or to repair it.
func (s *PostgresStore) openDoubted(o StoreOpening, why string, look bool) (limiter.Doubted, commit.Clock, error) {
	options, err := s.options(o)
	if err != nil {
		return nil, nil, err
	}
	options.Doubt = why
	open := postgres.OpenRepair
	if look {
		open = postgres.OpenDoubted
	}
	opened, err := open(context.Background(), options)
	if err != nil {
		return nil, nil, err
	}
	return opened, opened.Clock(), nil
}

// options returns this node's options for opening the database.
func (s *PostgresStore) options(o StoreOpening) (postgres.Options, error) {
	if err := os.MkdirAll(nodeDir(), 0o700); err != nil {
		return postgres.Options{}, fmt.Errorf("making the directory of what this node remembers: %w", err)
	}
	node := s.Node
	if node == "" {
		var err error
		if node, err = loadOrMakeNodeName(); err != nil {
			return postgres.Options{}, err
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // it only helps people to find the machine
	}
	after, _ := o.After.(*postgres.Store) // one of another kind knows nothing of a database
	at := s.address.Load()
	return postgres.Options{
		DSN: at.dsn.Reveal(), Listen: at.listen.Reveal(), Schema: s.Schema, MaxConns: s.MaxConns,
		Node: node, Version: version(), Address: host, Configuration: o.Configuration(),
		After: after, Witness: s.Place().File("witness"), Disk: store.Files{}, Log: o.Log,
	}, nil
}

// version returns till's version in this build, or "devel" in a build from a checkout.
func version() string {
	const module = "github.com/till-proxy/till"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	built := &info.Main
	for _, dep := range info.Deps {
		if dep.Path == module {
			built = dep
		}
	}
	if built.Path != module || built.Version == "" || built.Version == "(devel)" {
		return "devel"
	}
	return built.Version
}

// UnmarshalCaddyfile reads:
//
//	postgres <dsn> [schema <name>] {
//		schema    <name>
//		max_conns <n>
//		listen    <dsn>
//		node      <name>
//	}
func (s *PostgresStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the store's name
	switch args := d.RemainingArgs(); {
	case len(args) == 1:
		s.DSN = args[0]
	case len(args) == 3 && args[1] == "schema":
		s.DSN, s.Schema = args[0], args[2]
	default:
		return d.Err("store postgres takes the address of the database, such as {env.TILL_DATABASE_URL}, and perhaps: schema till")
	}
	given := map[string]bool{"schema": s.Schema != ""}
	for d.NextBlock(0) {
		option := d.Val()
		if !slices.Contains(postgresOptions, option) {
			return d.Errf("store postgres has no option %q; there are %s", option, strings.Join(postgresOptions, ", "))
		}
		var value string
		if given[option] || !d.AllArgs(&value) {
			return d.Errf("store postgres: %s takes one value and may be given once", option)
		}
		given[option] = true
		switch option {
		case "schema":
			s.Schema = value
		case "listen":
			s.Listen = value
		case "node":
			s.Node = value
		case "max_conns":
			n, err := strconv.Atoi(value)
			if err != nil || n == 0 {
				return d.Errf("store postgres: %v", postgres.MaxConnsError(strconv.Quote(value)))
			}
			s.MaxConns = n
		}
		if err := s.checkWritten(); err != nil {
			return d.Errf("store postgres: %v", err)
		}
	}
	if err := s.checkWritten(); err != nil {
		return d.Errf("store postgres: %v", err)
	}
	return nil
}

// checkWritten checks the options as they stand in a Caddyfile, before placeholders are resolved,
// so that an error names the line.
func (s *PostgresStore) checkWritten() error {
	written := &PostgresStore{DSN: s.DSN, Schema: s.Schema, MaxConns: s.MaxConns, Node: s.Node}
	if strings.Contains(written.Node, "{") {
		written.Node = ""
	}
	return written.check()
}

// Interface guards
var (
	_ caddy.Provisioner     = (*PostgresStore)(nil)
	_ caddyfile.Unmarshaler = (*PostgresStore)(nil)
	_ Storage               = (*PostgresStore)(nil)
)
