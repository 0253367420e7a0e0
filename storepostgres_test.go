package till

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// reached returns a store at an address, as if it had been resolved.
func reached(t *testing.T, s *PostgresStore, dsn string) *PostgresStore {
	t.Helper()
	s.DSN = dsn
	if err := s.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.setAddress(dsn, ""); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheSameDatabaseIsOneStoreHoweverItIsReached(t *testing.T) {
	t.Parallel()
	const first = "postgres://till:one@db-1.internal/budgets"
	a := reached(t, new(PostgresStore), first).Place()
	for _, test := range []struct {
		name      string
		store     *PostgresStore
		dsn       string
		same, way bool // the store, and how it is reached
	}{
		{"again", new(PostgresStore), first, true, true},
		{"with another password", new(PostgresStore), "postgres://till:two@db-1.internal/budgets", true, false},
		{"at another server", new(PostgresStore), "postgres://till:one@db-2.internal/budgets", true, false},
		{"with more connections", &PostgresStore{MaxConns: 20}, first, true, false},
		{"in another schema", &PostgresStore{Schema: "other"}, first, false, true},
		{"as another node", &PostgresStore{Node: "till-2"}, first, false, true},
		{"in another database", new(PostgresStore), "postgres://till:one@db-1.internal/others", false, false},
	} {
		b := reached(t, test.store, test.dsn).Place()
		if same := a.Identity == b.Identity; same != test.same || (a.File("shadow") == b.File("shadow")) != test.same {
			t.Errorf("%s: the same store is %v, want %v: %q and %q", test.name, same, test.same, a.Identity, b.Identity)
		}
		if way := a.Way == b.Way; way != test.way {
			t.Errorf("%s: reached in the same way is %v, want %v", test.name, way, test.way)
		}
	}
}

func TestNothingThatIsSaidOfADatabaseHoldsItsPassword(t *testing.T) {
	t.Parallel()
	const password = "s3cr3t-pa55"
	for _, dsn := range []string{
		"postgres://till:" + password + "@db/",
		"postgres://till:" + password + "@db:port/till",
		"postgres://till:" + password + "%zz@db/till",
		"postgres://till:" + password + "/@db/till?sslmode=nothing",
		"host=db user=till password=" + password + " dbname=till sslmode=nothing",
		"host=db password='" + password,
		"host=db dbname=till password=" + password + " sslrootcert=/none/such.pem sslmode=verify-full",
		password,
	} {
		s := &PostgresStore{DSN: dsn, Schema: "till", MaxConns: 8}
		_, err := s.setAddress(dsn, "")
		if err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%v", err)
		}
	}
	at := reached(t, new(PostgresStore), "postgres://till:"+password+"@db/till").Place()
	if strings.Contains(at.Identity+at.File("shadow")+at.Way, password) {
		t.Errorf("%+v", at)
	}
}

func TestAWatchedAddressMayChangeButNotToAnotherDatabase(t *testing.T) {
	t.Parallel()
	s := reached(t, new(PostgresStore), "postgres://till:one@db/till")
	before := s.Place()
	if changed, err := s.setAddress("postgres://till:two@db/till\n", ""); !changed || err != nil {
		t.Errorf("another password: %v, %v", changed, err)
	}
	if changed, err := s.setAddress("postgres://till:two@db/till", ""); changed || err != nil {
		t.Errorf("the same one: %v, %v", changed, err)
	}
	after := s.Place()
	if after.Identity != before.Identity || after.Way == before.Way {
		t.Errorf("%+v became %+v", before, after)
	}
	if _, err := s.setAddress("postgres://till:two@db/other", ""); err == nil || !strings.Contains(err.Error(), "reload the configuration") {
		t.Errorf("another database: %v", err)
	}
	if _, err := s.setAddress("postgres://till:two@db/till", "postgres://till:two@db/other"); err == nil || !strings.Contains(err.Error(), "listen names the database other") {
		t.Errorf("another database to listen on: %v", err)
	}
}

func TestAPasswordInTheConfigurationIsFound(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]bool{
		"postgres://till:secret@db/till":                 true,
		"host=db dbname=till password=x":                 true,
		"postgres://till@db/till":                        false,
		"{env.TILL_DATABASE_URL}":                        false,
		"postgres://till:{file./run/secrets/pw}@db/till": false,
	} {
		if got := (&PostgresStore{DSN: dsn}).literals(); got != want {
			t.Errorf("%s: %v, want %v", dsn, got, want)
		}
	}
}

// loaded provisions a configuration, as `caddy validate` does.
func loaded(t *testing.T, config string) error {
	t.Helper()
	_, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON([]byte(config), cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output":"discard"}`)}}}}
	return caddy.Validate(cfg)
}

func TestValidatingConnectsToNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	// Nothing listens there, and what has no file cannot be resolved.
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("pa55\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := loaded(t, `{"apps":{"till":{"store":{"module":"postgres","dsn":"postgres://till:{file.`+password+`}@127.0.0.1:1/till"}}}}`); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "caddy", "till")); err == nil && len(left) > 0 {
		t.Errorf("validating has left %v", left)
	}
	for config, want := range map[string]string{
		`"dsn":"postgres://till@db/till","max_conns":2`:      "max_conns must be from 3 to",
		`"dsn":"postgres://till@db/till","schema":"pg_till"`: "schema must be",
		`"dsn":"postgres://till@db/till","node":"a b"`:       "node must be a name",
		`"dsn":""`: "dsn {env.TILL_DATABASE_URL}",
		`"dsn":"{env.TILL_TEST_NO_SUCH_VARIABLE}"`: "TILL_TEST_NO_SUCH_VARIABLE",
		`"dsn":"{file.` + password + `.none}"`:     "no such file",
	} {
		if err := loaded(t, `{"apps":{"till":{"store":{"module":"postgres",`+config+`}}}}`); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
	if err := loaded(t, `{"apps":{"till":{"anchor":"/x","store":{"module":"postgres","dsn":"postgres://till@db/till"}}}}`); err == nil || !strings.Contains(err.Error(), "take the anchor out") {
		t.Errorf("with an anchor: %v", err)
	}
}

func TestTheNameOfANodeIsMadeOnce(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	first, err := loadOrMakeNodeName()
	if err != nil || !nodeName.MatchString(first) {
		t.Fatalf("%q, %v", first, err)
	}
	if err := makeNodeName(); !os.IsExist(err) {
		t.Errorf("a second process: %v", err)
	}
	if again, err := loadOrMakeNodeName(); again != first || err != nil {
		t.Errorf("%q became %q, %v", first, again, err)
	}
	info, err := os.Stat(nodeFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(nodeDir(), ".node-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if a, b := reached(t, new(PostgresStore), "postgres://db/till").Place(), reached(t, &PostgresStore{Node: first}, "postgres://db/till").Place(); a.Identity != b.Identity {
		t.Errorf("its own name makes another store: %q and %q", a.Identity, b.Identity)
	}
	if err := os.WriteFile(nodeFile(), []byte("a/b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadOrMakeNodeName(); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestTheCaddyfileAndJSONRefuseASettingInTheSameWords(t *testing.T) {
	for _, test := range []struct{ written, json string }{
		{"schema Till", `"schema":"Till"`}, {"schema pg_till", `"schema":"pg_till"`},
		{"max_conns 2", `"max_conns":2`}, {"max_conns 1001", `"max_conns":1001`}, {"max_conns -1", `"max_conns":-1`},
	} {
		var inFile, inJSON PostgresStore
		err := inFile.UnmarshalCaddyfile(caddyfile.NewTestDispenser("postgres postgres://till@db/till {\n" + test.written + "\n}"))
		if err := json.Unmarshal([]byte(`{"dsn":"postgres://till@db/till",`+test.json+`}`), &inJSON); err != nil {
			t.Fatal(err)
		}
		if want := inJSON.check(); err == nil || want == nil || !strings.Contains(err.Error(), want.Error()) {
			t.Errorf("%s: %v, and in JSON %v", test.written, err, want)
		}
	}
}
