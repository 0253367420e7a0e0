// Package postgres keeps the limiter's records in a PostgreSQL database that several
// nodes share.
//
// It knows rows, transactions, sessions and the feed of what was written. It knows
// nothing of what the rows mean: a store.Follower tells it which of them a node keeps in
// memory. It passes limiter/store/storetest.
package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/store"
)

// Options says where the database is, and who this node is.
type Options struct {
	// DSN is the address of the database. It is a secret, as it contains the password.
	DSN string
	// Listen is a second address, past a pooler, for the connection that listens.
	// Default: DSN.
	Listen string
	// Schema holds the tables. Default: till.
	Schema string
	// MaxConns bounds the connections of this node. Default: 8; at least 3.
	MaxConns int

	Node, Version, Address, Configuration string
	// Passing says that the node will not come back, so it is not listed once it has
	// closed the store. Default: false.
	Passing bool

	// After is the store of this process that had the database open before, and is
	// closed. Everything that it has seen there must still be there. Default: none.
	After *Store

	// Doubt is why this node doubts what the records say, though the database lacks no
	// commit. It counts for OpenDoubted and OpenRepair, if no node has written another
	// doubt. Empty: there is none.
	Doubt string

	// Witness is the path of the file with the last acknowledged commit. Empty: none,
	// and then only other nodes find out if the database has lost that commit.
	Witness string
	Disk    store.Disk
	Log     *slog.Logger
}

// Store is a store.Shared in a PostgreSQL database.
type Store struct {
	options        Options
	log            *slog.Logger
	where          string // names the database in messages
	schema         string
	config, listen *pgconn.Config
	sql            queries
	writers        int64 // the advisory lock of all transactions
	database       string
	generation     int64 // of the database, when the session began
	repair         *Repair
	pool           *pool
	clock          Clock
	witness        *witness

	// ending is done once Close has begun.
	ending context.Context
	end    context.CancelFunc
	owned  sync.WaitGroup // goroutines
	// working is done then, too, and as soon as everything is refused.
	working context.Context
	stop    context.CancelFunc

	turn    chan struct{} // a token for the transaction that writes
	often   [][]byte      // rows that the last Update has read; guarded by turn
	session []byte        // names this process, once joined
	joined  atomic.Bool
	acked   atomic.Int64 // the last acknowledged commit of this node
	failure atomic.Pointer[error]
	healed  atomic.Bool // the reason for the doubt is gone; see Healed

	former   state // what Options.After has seen
	seen     seen
	instance instance
	follow   following
	fresh    atomic.Int64 // until when this node is fresh, in boottime
	leading  atomic.Int64 // until when this node leads, in boottime
	asks     chan []byte  // accounts to recall
}

const (
	defaultSchema   = "till"
	defaultMaxConns = 8
	minMaxConns     = 3 // for listening, committing and reading
	maxMaxConns     = 1000
	connectTimeout  = 3 * time.Second
)

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// Complete sets the defaults of Schema and MaxConns, and checks both.
func (o *Options) Complete() error {
	o.Schema = cmp.Or(o.Schema, defaultSchema)
	if o.MaxConns == 0 {
		o.MaxConns = defaultMaxConns
	}
	if !schemaName.MatchString(o.Schema) || strings.HasPrefix(o.Schema, "pg_") {
		return fmt.Errorf("schema must be up to 40 lower-case letters, digits and underscores, and not begin with a digit or pg_, such as %s, got %q", defaultSchema, o.Schema)
	}
	if o.MaxConns < minMaxConns || o.MaxConns > maxMaxConns {
		return MaxConnsError(o.MaxConns)
	}
	return nil
}

// MaxConnsError says which values MaxConns may have, and which was given.
func MaxConnsError(got any) error {
	return fmt.Errorf("max_conns must be from %d to %d, such as %d, got %v", minMaxConns, maxMaxConns, defaultMaxConns, got)
}

// Open connects to the database, refuses one that cannot keep its promises, and brings
// the schema up to date. An error that wraps store.ErrUnavailable says that a later
// attempt may succeed.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.Complete(); err != nil {
		return nil, err
	}
	o.Listen = cmp.Or(o.Listen, o.DSN)
	if o.Node == "" || len(o.Node) > 200 || !utf8.ValidString(o.Node) || strings.Contains(o.Node, "\x00") {
		return nil, fmt.Errorf("node %q: give the node a name of 1 to 200 bytes of UTF-8", o.Node)
	}
	s := &Store{
		options: o, log: o.Log, schema: o.Schema, sql: queriesIn(o.Schema),
		turn: make(chan struct{}, 1), asks: make(chan []byte, 256),
		seen:     seen{commits: make(map[string]int64), renewals: make(map[string]renewal)},
		instance: instance{past: &past{left: make(map[int64]bool)}},
	}
	s.log = cmp.Or(s.log, slog.New(slog.DiscardHandler))
	if o.After != nil {
		s.former = o.After.before()
		s.former.generation = o.After.generation
		s.instance.past = o.After.instance.past
		s.options.After = nil // or each store would keep all before it
	}
	if s.options.Disk == nil {
		s.options.Disk = store.Files{}
	}
	s.follow.wake, s.follow.lapsed, s.follow.recalls = make(chan struct{}, 1), make(chan struct{}, 1), make(chan []byte, 64)
	s.writers = s.lockKey("writers")
	var err error
	if s.config, err = parse("dsn", o.DSN); err != nil {
		return nil, err
	}
	if s.listen, err = parse("listen", o.Listen); err != nil {
		return nil, err
	}
	s.where = placeOf(s.config)
	if err := s.checkServer(ctx); err != nil {
		return nil, s.opened(err)
	}
	if err := s.migrate(ctx); err != nil {
		return nil, s.opened(err)
	}
	if s.witness, err = openWitness(s.options.Disk, o.Witness); err != nil {
		return nil, err
	}
	s.ending, s.end = context.WithCancel(context.Background())
	s.working, s.stop = context.WithCancel(s.ending)
	s.pool = newPool(s.config, o.MaxConns-1, s.checkConn)
	return s, nil
}

// parse reads an address. The driver's errors quote it, so they are not passed on.
func parse(field, dsn string) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil || misread(dsn) {
		return nil, fmt.Errorf("%s: this is not the address of a PostgreSQL database: want postgres://USER:PASSWORD@HOST:PORT/DATABASE, with %%xx for special characters of the password", field)
	}
	config.ConnectTimeout = min(config.ConnectTimeout, connectTimeout)
	config.ConnectTimeout = cmp.Or(config.ConnectTimeout, connectTimeout)
	if config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "till"
	}
	return config, nil
}

// placeOf names a database without a secret.
func placeOf(config *pgconn.Config) string {
	at := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	if strings.HasPrefix(config.Host, "/") {
		at = config.Host
	}
	if config.Database == "" {
		return "the database at " + at
	}
	return "database " + config.Database + " at " + at
}

// misread reports whether an address can be read, but has a password with a special
// character: it would be taken for a host and a database, and be shown.
func misread(dsn string) bool {
	_, rest, isURL := strings.Cut(dsn, "://")
	end := strings.IndexAny(rest, "/?#")
	return isURL && end > 0 && !strings.Contains(rest[:end], "@") && strings.Contains(rest[end:], "@")
}

// lockKey is the number of an advisory lock of this schema.
func (s *Store) lockKey(what string) int64 {
	sum := sha256.Sum256([]byte("till/" + s.schema + "/" + what))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

func (s *Store) channel(what string) string { return s.schema + "_" + what }

// Node implements store.Shared.
func (s *Store) Node() string { return s.options.Node }

// Clock is the time of the database.
func (s *Store) Clock() *Clock { return &s.clock }

// String names the store without a secret.
func (s *Store) String() string { return "postgres: schema " + s.schema + " of " + s.where }

// usable returns why no transaction may begin.
func (s *Store) usable() error {
	if s.ending.Err() != nil {
		return store.ErrClosed
	}
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail refuses everything from here on. Nothing is admitted once anybody may know of it,
// however long the log takes.
func (s *Store) fail(err error) error {
	s.follow.mu.Lock()
	s.fresh.Store(0)
	first := s.failure.CompareAndSwap(nil, &err)
	s.follow.mu.Unlock()
	s.stop()
	s.signalLapsed()
	if first {
		s.log.Error("the database is refused until the store is opened again", "error", err)
	}
	return *s.failure.Load()
}

// closePatience bounds how long Close waits for running work.
const closePatience = 10 * time.Second

// Close implements store.Store.
func (s *Store) Close() error {
	if s.ending.Err() != nil {
		return nil
	}
	s.end()
	s.follow.mu.Lock()
	s.fresh.Store(0)
	s.follow.mu.Unlock()
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case s.turn <- struct{}{}: // and it is never given back
	case <-patience.C:
		return fmt.Errorf("closing the store: %s does not answer; what was acknowledged is in it", s.where)
	}
	done := make(chan struct{})
	go func() {
		s.owned.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-patience.C:
		return errors.Join(errors.New("closing the store: what follows other nodes does not end"), s.witness.close())
	}
	s.pool.close()
	return s.witness.close()
}

// Interface guards
var (
	_ store.Shared  = (*Store)(nil)
	_ store.Browser = (*Store)(nil)
	_ store.Tx      = (*transaction)(nil)
	_ store.Fetcher = (*transaction)(nil)
	_ store.Reader  = (*view)(nil)
	_ store.Fetcher = (*view)(nil)
)
