package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

func migrateCommand(f *globalFlags) *cobra.Command {
	var from, to, anchor, schema string
	cmd := &cobra.Command{
		Use:   "migrate --from badger:PATH --to postgres:DSN",
		Short: "Copies all keys and counts into a database, or back",
		Long: `Copies everything from the store of one server into a PostgreSQL database that
several servers share, or back: keys, what they used, tokens, the audit log. No
server may use either store meanwhile. The source is only read, and the target
must be empty. At the end both are read in full and compared.

If it is cut off, run the same command again: it goes on where it was. A target
that is unfinished is not opened by any server. What root makes in a directory
is given to somebody as with caddy till restore.

The address of a database is a secret, and others on this machine can see the
arguments of commands: write it as {env.NAME} or {file.PATH}, in quotes.`,
		Example: `  caddy till migrate --from badger:/var/lib/till \
    --to 'postgres:{env.TILL_DATABASE_URL}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			source, target, err := twoPlaces(from, to)
			if err != nil {
				return err
			}
			dir := source
			if source.kind == inDatabase {
				dir = target
			}
			if anchor == "" {
				anchor = filepath.Join(dir.address, "anchor")
			}
			m := limiter.Migration{By: limiter.Operator, Disk: store.Files{}, Dir: dir.address, Anchor: anchor}
			if source.kind == inDirectory {
				if _, err := os.Stat(source.address); err != nil {
					return fmt.Errorf("the source: %w", err)
				}
				if shadow := filepath.Join(source.address, "shadow"); exists(shadow) {
					m.Shadow = shadow
				}
			}
			if m.From, err = source.open(cmd.Context(), schema); err != nil {
				return fmt.Errorf("the source: %w", err)
			}
			defer func() { err = errors.Join(err, m.From.Close()) }()
			if target.kind == inDirectory {
				var pass func() error
				if pass, err = inherit(cmd.ErrOrStderr(), target.address, anchor); err != nil {
					return fmt.Errorf("the target: %w", err)
				}
				defer func() {
					if err == nil { // and the store is closed
						err = pass()
					}
				}()
			}
			if m.To, err = target.open(cmd.Context(), schema); err != nil {
				return fmt.Errorf("the target: %w", err)
			}
			defer func() { err = errors.Join(err, m.To.Close()) }()
			for _, s := range []store.Store{m.From, m.To} {
				if shared, ok := s.(*postgres.Store); ok {
					m.Clock = shared.Clock()
				}
			}
			p := showProgress(cmd.ErrOrStderr(), "Copying", inRecords)
			m.Copied = p.set
			done, err := limiter.Migrate(m)
			p.end()
			if err != nil {
				return err
			}
			if source.kind == inDirectory {
				noteContradictions(cmd.ErrOrStderr(), filepath.Join(source.address, "contradictions"))
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Copied and compared %s: %s, with %s used, and %s of the audit log.\n%s",
				prose.Counted(done.Records, "record"), prose.Counted(done.Keys, "key"), prose.Counted(done.Used[record.Activations], "activation"),
				prose.CountedAs(done.Entries, "entry", "entries"), target.next())
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the source: badger:PATH or postgres:DSN")
	cmd.Flags().StringVar(&to, "to", "", "the target: postgres:DSN or badger:PATH")
	cmd.Flags().StringVar(&anchor, "anchor", "", "the anchor of the store in a directory, if it is not in there")
	cmd.Flags().StringVar(&schema, "schema", "till", "the schema in the database")
	return cmd
}

// noteContradictions says which upstreams the server refuses to keys with a limit in tokens
// or dollars, because an answer has exceeded a bound. Each node has a record of its own, in
// the data directory of the user that it runs as. The migration has succeeded already.
func noteContradictions(notes io.Writer, path string) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var all []struct{ Upstream, Option string }
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		fmt.Fprintf(notes, "All was copied, but which upstreams have passed a bound cannot be read from %s: %v.\nThe nodes do not know it: the former server's log says it, at level ERROR.\n", path, err)
	}
	for _, c := range all {
		if c.Option == "ask_usage" { // then it refused a field, and no key is refused
			fmt.Fprintf(notes, "Upstream %s does not know the field with which streams are asked for their usage, and the nodes\ndo not know that: set ask_usage off before you start them (see %s).\n", c.Upstream, path)
			continue
		}
		fmt.Fprintf(notes, "An answer of upstream %s has passed its bound, and the nodes do not know it: unless %s was\nset for it since, set that before you start them (see %s).\n", c.Upstream, c.Option, path)
	}
}

// exists reports whether there is a file.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A storeKind says where a store is kept.
type storeKind string

const (
	inDirectory storeKind = "badger"
	inDatabase  storeKind = "postgres"
)

// storePlace is a store as a command names it.
type storePlace struct {
	kind    storeKind
	address string // path or DSN
}

// twoPlaces reads the source and the target of a migration.
func twoPlaces(from, to string) (source, target storePlace, err error) {
	if source, err = placeOf("--from", from); err == nil {
		target, err = placeOf("--to", to)
	}
	if err == nil && source.kind == target.kind {
		err = usage("a migration goes from badger to postgres, or back; copy a directory with backup and restore, and a database by its own means")
	}
	return source, target, err
}

func placeOf(flag, text string) (p storePlace, err error) {
	kind, address, _ := strings.Cut(text, ":")
	p.kind = storeKind(kind)
	if p.kind != inDirectory && p.kind != inDatabase || address == "" {
		return p, usage("%s is badger:PATH or postgres:DSN, such as 'postgres:{env.TILL_DATABASE_URL}'", flag)
	}
	if p.kind == inDatabase && strings.HasPrefix(address, "//") { // the DSN alone, which begins with the kind
		address = text
	}
	if p.address, err = caddy.NewReplacer().ReplaceOrErr(address, true, true); err != nil {
		return p, fmt.Errorf("%s: %w", flag, err)
	}
	if p.address = strings.TrimSpace(p.address); p.kind == inDirectory {
		p.address, err = filepath.Abs(p.address)
	}
	return p, err
}

// migrator is the name of a migration's node in a database.
const migrator = "migration"

// open opens a store for this command alone.
func (p storePlace) open(ctx context.Context, schema string) (store.Store, error) {
	log := slog.New(slog.DiscardHandler)
	if p.kind == inDirectory {
		s, err := store.OpenBadger(p.address, log)
		if errors.Is(err, store.ErrLocked) {
			err = fmt.Errorf("%w: stop the server first", err)
		}
		return s, err
	}
	version, _ := caddy.Version()
	s, err := postgres.Open(ctx, postgres.Options{DSN: p.address, Schema: schema, Node: migrator, Version: version, Passing: true, Log: log})
	if err != nil {
		return nil, err
	}
	if err := s.Join(store.Bystander{}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// next says how to start servers with a store.
func (p storePlace) next() string {
	if p.kind == inDirectory {
		return "Start one server with: store badger " + p.address + "\n"
	}
	return "Start the servers with: store postgres {env.TILL_DATABASE_URL}, or wherever its address is, and the same seal keys as before.\n"
}
