package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

func TestOptionsThatCannotWorkAreRefusedByName(t *testing.T) {
	t.Parallel()
	dsn, schema := postgrestest.Schema(t)
	for want, o := range map[string]postgres.Options{
		"schema ":    {DSN: dsn, Schema: "Till; DROP", Node: "one"},
		"max_conns ": {DSN: dsn, Schema: schema, Node: "one", MaxConns: 2},
		"node ":      {DSN: dsn, Schema: schema},
		"dsn: ":      {DSN: "postgres://host:port/x", Schema: schema, Node: "one"},
		"listen: ":   {DSN: dsn, Listen: "postgres://host:port/x", Schema: schema, Node: "one"},
	} {
		if _, err := postgres.Open(context.Background(), o); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestSecretsOfTheAddressAreInNoMessage: neither the password nor the user, whatever goes
// wrong, and wherever it is reported.
func TestSecretsOfTheAddressAreInNoMessage(t *testing.T) {
	t.Parallel()
	const user, password = "app_of_the_secret", "hunter2-is-the-secret"
	server := postgrestest.Start(t)
	server.Exec(t, "CREATE ROLE "+user+" LOGIN PASSWORD '"+password+"'; GRANT CREATE ON DATABASE postgres TO "+user)
	proxy := postgrestest.NewProxy(t, server)
	var logged buffer
	options := func(dsn string) postgres.Options {
		return postgres.Options{
			DSN: dsn, Node: "one",
			Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
		}
	}
	var said []string
	say := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
			return
		}
		for ; err != nil; err = errors.Unwrap(err) {
			said = append(said, fmt.Sprintf("%s: %v %+v %#v", what, err, err, err))
		}
	}
	good := proxy.As(user, password)
	for what, dsn := range map[string]string{
		"a port that is none":     strings.ReplaceAll(good, "127.0.0.1:", "127.0.0.1:x"),
		"a bracket":               strings.ReplaceAll(good, "127.0.0.1", "[127.0.0.1"),
		"words":                   "host=127.0.0.1 port=x user=" + user + " password=" + password,
		"an open quote":           "host=127.0.0.1 user=" + user + " password='" + password,
		"a percent sign":          "postgres://" + user + ":%zz" + password + "@127.0.0.1/x",
		"a slash in it":           "postgres://" + user + ":/" + password + "@127.0.0.1/x",
		"a number sign in it":     "postgres://" + user + ":12#" + password + "@127.0.0.1/x",
		"a question mark in it":   "postgres://" + user + ":12?" + password + "@127.0.0.1/x",
		"another password":        proxy.As(user, password+"x"),
		"another user":            proxy.As(user+"x", password),
		"another database":        strings.ReplaceAll(good, "/postgres", "/missing"),
		"nobody listens":          "postgres://" + user + ":" + password + "@127.0.0.1:1/x",
		"a host that is not":      "postgres://" + user + ":" + password + "@host.invalid/x",
		"TLS where there is none": strings.ReplaceAll(good, "disable", "require"),
	} {
		_, err := postgres.Open(context.Background(), options(dsn))
		say(what, err)
	}
	server.Exec(t, "ALTER ROLE "+user+" CONNECTION LIMIT 0")
	_, err := postgres.Open(context.Background(), options(good))
	say("no connection left", err)
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("no connection left: %v, want ErrUnavailable", err)
	}
	server.Exec(t, "ALTER ROLE "+user+" CONNECTION LIMIT -1")
	s, err := postgres.Open(context.Background(), options(good))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Join(&follower{}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k/1", "")
	said = append(said, s.String(), fmt.Sprintf("%v", s))
	proxy.Cut()
	write := func(tx store.Tx) error { return tx.Set([]byte("k/1"), nil) }
	look := func(r store.Reader) error {
		_, err := r.Get([]byte("k/1"))
		return err
	}
	say("Update", s.Update(write))
	say("UpdateRows", s.UpdateRows(store.Rows{Lock: [][]byte{[]byte("k/1")}}, write))
	say("View", s.View(look))
	_, err = s.Nodes()
	say("Nodes", err)
	_, err = s.Settled(1)
	say("Settled", err)
	proxy.Heal()
	server.Exec(t, "ALTER ROLE "+user+" PASSWORD 'another'")
	proxy.Cut()
	proxy.Heal()
	say("Update with a password that was changed", s.Update(write))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, text := range append(said, logged.String()) {
		if strings.Contains(text, password) || strings.Contains(text, user) {
			t.Errorf("it says: %s", text)
		}
	}
	if testing.Verbose() {
		t.Log(strings.Join(said, "\n"), "\n", logged.String())
	}
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestNodesThatStartAtOnceMakeOneSchema(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: fmt.Sprint(i)}, nil)
		})
	}
	wg.Wait()
	eventually(t, "all nodes have joined, and live", func() bool {
		return server.Exec(t, "SELECT count(*) FROM "+schema+".session WHERE expires > now()")[0] == "4"
	})
}

func TestASchemaOfALaterVersionIsRefusedByName(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	o := postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}
	open(t, o, nil)
	server.Exec(t, "UPDATE "+schema+".meta SET value = '99' WHERE name = 'version'")
	_, err := postgres.Open(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "schema "+schema+" is of version 99") {
		t.Errorf("Open: %v", err)
	}
}

func TestASchemaOfSomebodyElseIsRefused(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	server.Exec(t, "CREATE SCHEMA "+schema+"; CREATE TABLE "+schema+".meta (name text, value text)")
	_, err := postgres.Open(context.Background(), postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"})
	if err == nil || !strings.Contains(err.Error(), "choose another schema") {
		t.Errorf("Open: %v", err)
	}
}

func TestAServerThatForgetsIsRefused(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"fsync":            "set fsync = on",
		"full_page_writes": "set full_page_writes = on",
	} {
		server := postgrestest.Start(t, setting+" = off")
		_, err := postgres.Open(context.Background(), postgres.Options{DSN: server.DSN(), Node: "one"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s = off: %v", setting, err)
		}
	}
}

func TestADatabaseOfAnotherEncodingIsRefused(t *testing.T) {
	t.Parallel()
	server, name := ownSchema(t)
	server.Exec(t, "CREATE DATABASE "+name+" ENCODING 'LATIN1' TEMPLATE template0")
	_, err := postgres.Open(context.Background(), postgres.Options{DSN: strings.Replace(server.DSN(), "/postgres", "/"+name, 1), Node: "one"})
	if err == nil || !strings.Contains(err.Error(), "ENCODING 'UTF8'") {
		t.Errorf("Open: %v", err)
	}
}

func TestAServerThatOnlyReadsIsUnavailable(t *testing.T) {
	t.Parallel()
	server, name := ownSchema(t)
	server.Exec(t, "CREATE ROLE "+name+" LOGIN SUPERUSER PASSWORD 'x'; ALTER ROLE "+name+" SET default_transaction_read_only = on")
	_, err := postgres.Open(context.Background(), postgres.Options{DSN: server.As(name, "x"), Node: "one"})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Open: %v, want ErrUnavailable", err)
	}
}

// TestAServerThatCrashesIsUnavailableUntilItIsBack: nothing acknowledged is lost, and
// nothing has to be opened again.
func TestAServerThatCrashesIsUnavailableUntilItIsBack(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	f := &follower{}
	one := open(t, postgres.Options{DSN: server.DSN(), Node: "one"}, f)
	two := open(t, postgres.Options{DSN: server.DSN(), Node: "two"}, nil)
	acknowledged := 0
	write := func(s store.Shared) error {
		err := s.Update(func(tx store.Tx) error { return tx.Set(fmt.Appendf(nil, "k/%03d", acknowledged), nil) })
		if err == nil {
			acknowledged++
		}
		return err
	}
	for range 20 {
		if err := update(func() error { return write(one) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []store.Shared{one, two} {
		if err := write(s); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a transaction without a server: %v, want ErrUnavailable", err)
		}
		err := s.View(func(r store.Reader) error {
			_, err := r.Get([]byte("k/000"))
			return err
		})
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("a view without a server: %v, want ErrUnavailable", err)
		}
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []store.Shared{one, two} {
		eventually(t, "it writes again", func() bool { return write(s) == nil })
		eventually(t, "it is fresh", func() bool { return s.Fresh() == nil })
	}
	n := 0
	err := update(func() error {
		return two.View(func(r store.Reader) error {
			n = 0
			return r.Scan([]byte("k/"), nil, false, func(_, _ []byte) (bool, error) { n++; return true, nil })
		})
	})
	if err != nil || n != acknowledged {
		t.Errorf("%d rows are there, %d were acknowledged, %v", n, acknowledged, err)
	}
	put(t, two, "f/1", "")
	if behind, err := two.Settled(eventuallyPatience); err != nil || len(behind) != 0 {
		t.Errorf("Settled: %q, %v", behind, err)
	}
}

func TestAServerWithoutAConnectionLeftIsUnavailable(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	server.Exec(t, "CREATE ROLE "+schema+" LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE postgres TO "+schema)
	proxy := postgrestest.NewProxy(t, server)
	s := open(t, postgres.Options{DSN: proxy.As(schema, "x"), Schema: schema, Node: "one"}, nil)
	put(t, s, "k/1", "before")
	server.Exec(t, "ALTER ROLE "+schema+" CONNECTION LIMIT 0")
	proxy.Cut()
	proxy.Heal()
	if err := s.Update(func(store.Tx) error { t.Error("it runs"); return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update: %v, want ErrUnavailable", err)
	}
	server.Exec(t, "ALTER ROLE "+schema+" CONNECTION LIMIT -1")
	put(t, s, "k/1", "after")
	if got := get(t, s, "k/1"); got != "after" {
		t.Errorf("the row is %q", got)
	}
}

func TestPeopleWithPsqlSeeKeysWithoutTheirSecrets(t *testing.T) {
	t.Parallel()
	server, schema, s := ownNode(t)
	put(t, s, "k/key_1", `{"id":"key_1","name":"billing bot","lookup":"the-hash","upstream":"openai","created_at":"2026-01-02T03:04:05Z"}`)
	put(t, s, "l/1", "not JSON")
	row := server.Exec(t, "SELECT concat_ws('|', id, name, upstream, created_at AT TIME ZONE 'UTC', record) FROM "+schema+".keys")
	if len(row) != 1 || !strings.HasPrefix(row[0], "key_1|billing bot|openai|2026-01-02 03:04:05|") || strings.Contains(row[0], "the-hash") {
		t.Errorf("psql shows %q", row)
	}
}

// silentAfter is the way to a server from which nothing comes back once a client has sent a
// text.
func silentAfter(t *testing.T, s *postgrestest.Server, text string) (dsn string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var silent atomic.Bool
	carry := func(to, from net.Conn, looking bool) {
		defer to.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if looking && bytes.Contains(b[:n], []byte(text)) {
				silent.Store(true)
			}
			if err == nil && (looking || !silent.Load()) {
				_, err = to.Write(b[:n])
			}
			if err != nil {
				return
			}
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", s.Socket())
			if err != nil {
				client.Close()
				continue
			}
			running.Go(func() { carry(server, client, true) })
			running.Go(func() { carry(client, server, false) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return fmt.Sprintf("postgres://%s@%s/postgres?sslmode=disable", postgrestest.User, l.Addr())
}

// TestADatabaseThatFallsSilentWhileItIsOpenedIsGivenUp: otherwise the node would never try
// again.
func TestADatabaseThatFallsSilentWhileItIsOpenedIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"when asked what it is":    "server_version_num",
		"when told to listen":      "LISTEN ",
		"when asked for its state": "to_regclass",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := silentAfter(t, postgrestest.Shared(t), text)
			_, schema := postgrestest.Schema(t)
			opened := make(chan error, 1)
			go func() {
				s, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema, Node: "one"})
				if err == nil {
					err = s.Join(&follower{})
					err = errors.Join(err, s.Close())
				}
				opened <- err
			}()
			select {
			case err := <-opened:
				if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("it is opened: %v", err)
				}
			case <-time.After(eventuallyPatience):
				t.Fatal("it waits for ever")
			}
		})
	}
}
