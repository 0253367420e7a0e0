package e2e

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// newNode starts a server that shares a database. Its address is in a file, as it
// should be.
func newNode(t *testing.T, dsn, name string, o options) *server {
	t.Helper()
	address := filepath.Join(t.TempDir(), "database")
	if err := os.WriteFile(address, []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.more += "\nseal_key " + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n" // all nodes must have the same
	o.database = "{file." + address + "} {\n node " + name + "\n}"
	return newServer(t, o)
}

// isReady waits until keys are admitted.
func (s *server) isReady() {
	s.t.Helper()
	s.eventually("it is ready", func() bool { return s.adminPage("/till/ready") == "ready\n" })
}

// judges is chat, again while the server lacks its database.
func (s *server) judges(key string) int {
	s.t.Helper()
	return s.answers(func() *http.Request { return s.request(context.Background(), key) }).status
}

// twoNodes are two servers that share a database, with one upstream.
func twoNodes(t *testing.T) (a, b *server) {
	t.Helper()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	a = newNode(t, database.DSN(), "till-a", options{})
	b = newNode(t, database.DSN(), "till-b", options{to: a.upstream.URL})
	a.isReady()
	b.isReady()
	return a, b
}

func TestABudgetIsOneOverTwoServers(t *testing.T) {
	t.Parallel()
	a, b := twoNodes(t)
	id, key := a.mint(object{"max_activations": 1000})
	var mu sync.Mutex
	counts := make(map[int]int64)
	var wg sync.WaitGroup
	for _, s := range []*server{a, b} {
		wg.Go(func() {
			for status, n := range s.load(key, 1500, 50) {
				mu.Lock()
				counts[status] += n
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, s := range []*server{a, b} { // what a node gave back late is still there to use
		for status := 0; status != http.StatusPaymentRequired; {
			if status = s.chat(key); status == http.StatusOK {
				counts[status]++
			}
		}
	}
	if counts[http.StatusOK] != 1000 || a.upstream.Count() != 1000 || counts[0] != 0 {
		t.Errorf("answers by status: %v, and the upstream counted %d, want 1000", counts, a.upstream.Count())
	}
	for _, s := range []*server{a, b} {
		s.eventually("it has heard what the other one used", func() bool { return s.used(id) == 1000 })
	}
	a.clean()
}

func TestWhatIsStoppedOnOneServerIsStoppedOnTheOther(t *testing.T) {
	t.Parallel()
	a, b := twoNodes(t)
	for _, stop := range []string{"revoke", "suspend"} {
		id, key := a.mint(object{"max_activations": 1000})
		if status := b.judges(key); status != http.StatusOK {
			t.Fatalf("a key that was minted on the other server: %d", status)
		}
		began := time.Now()
		answer := a.act("POST", "/keys/"+id+"/"+stop, object{})
		if took := time.Since(began); answer["pending"] != nil && took < 10*time.Second { // it waits so long for a node that stands still
			t.Errorf("%s: pending %v after %s", stop, answer["pending"], took)
		}
		if status := b.judges(key); status != http.StatusForbidden {
			t.Errorf("after %s on the other server: %d", stop, status)
		}
	}
	a.clean()
}

func TestServersThatShareADatabaseKnowEachOther(t *testing.T) {
	t.Parallel()
	a, b := twoNodes(t)
	a.eventually("stats list both", func() bool { // unless the database is late to say which there are
		out := a.caddyTill("stats")
		return strings.Contains(out, "till-a *") && strings.Contains(out, "till-b")
	})
	// A node that has not yet said that it follows what was just done is behind.
	a.eventually("top shows it fresh", func() bool { return strings.Contains(a.caddyTill("top"), "nodes: * till-a fresh") })
	b.replace("\ttill {\n", "\ttill {\n\t\tretain 10d\n\t\trole ci {\n\t\t\tpermissions keys:read\n\t\t\tmax_activations 1\n\t\t}\n")
	b.reload()
	a.eventually("doctor names what is configured otherwise", func() bool {
		_, answer := a.api("GET", "/doctor", nil)
		findings, _ := answer["findings"].([]any)
		return slices.ContainsFunc(findings, func(f any) bool {
			finding := f.(object)
			return finding["check"] == "node_configuration" && finding["what"] == "node till-b is configured differently from this one: retain, roles"
		})
	})
	for _, want := range []string{"caddy_till_ready 1", `caddy_till_nodes{state="fresh"} 2`, `caddy_till_nodes{state="gone"} 0`, "caddy_till_leads"} {
		a.eventually("the metrics have "+want, func() bool { return strings.Contains(a.adminPage("/metrics"), want) })
	}
	b.stop()
	a.eventually("the other one is gone", func() bool {
		_, answer := a.api("GET", "/stats", nil)
		nodes, _ := answer["nodes"].([]any)
		return len(nodes) == 2 && nodes[1].(object)["state"] == "gone"
	})
}

func TestKeysCanBeReadWithSQL(t *testing.T) {
	t.Parallel()
	dsn, schema := postgrestest.Schema(t)
	s := newServer(t, options{database: inDatabase(dsn, schema, "sql")})
	s.isReady()
	id, _ := s.mint(object{"name": "nightly", "owner": "ana", "labels": object{"team": "ops"}, "max_activations": 5, "expires_in": "24h"})
	role := schema + "_report"
	database := postgrestest.Shared(t)
	database.Exec(t, "CREATE ROLE "+role+"; GRANT USAGE ON SCHEMA "+schema+" TO "+role+"; GRANT SELECT ON "+schema+".keys TO "+role)
	t.Cleanup(func() { database.Exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	asRole := func(query string) []string { return database.Exec(t, "SET ROLE "+role+"; "+query) }
	got := asRole(`SELECT concat_ws(' ', id, name, owner, labels ->> 'team', upstream, expires_at > now(), record ? 'custody') FROM ` + schema + ".keys")
	if want := id + " nightly ana ops mock t t"; len(got) != 1 || got[0] != want {
		t.Errorf("the view has %q, want %q", got, want)
	}
	if got := asRole("SELECT record::text FROM " + schema + ".keys"); strings.Contains(got[0], "lookup") {
		t.Error("the view has the hash of a key's string: ", got[0])
	}
	if got := asRole("SELECT has_table_privilege('" + schema + ".kv', 'SELECT')::text"); got[0] != "false" {
		t.Error("who may read the view can read the table")
	}
}

func TestAServerStartsWithoutItsDatabaseAndServesOnceThatAnswers(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	s := newNode(t, database.DSN(), "till-a", options{})
	s.isReady()
	id, key := s.mint(object{"max_activations": 10})
	if status := s.judges(key); status != http.StatusOK {
		t.Fatalf("a request: %d", status)
	}
	s.stop()
	if err := database.Kill(); err != nil {
		t.Fatal(err)
	}
	s.start()
	if page := s.adminPage("/till/live"); page != "live\n" {
		t.Errorf("without a database it does not live: %q", page)
	}
	if page := s.adminPage("/till/ready"); !strings.HasPrefix(page, "not ready: ") {
		t.Errorf("without a database it is ready: %q", page)
	}
	res, body := s.must(s.request(t.Context(), key))
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || res.Header.Get("Till-Refusal") != "till_store_unavailable" {
		t.Errorf("without a database: %d %v %s", res.StatusCode, res.Header, body)
	}
	_, answer := s.api("GET", "/doctor", nil)
	findings, _ := answer["findings"].([]any)
	if !slices.ContainsFunc(findings, func(f any) bool { return f.(object)["check"] == "store" }) {
		t.Errorf("doctor does not find it: %v", answer)
	}
	if err := database.Start(); err != nil {
		t.Fatal(err)
	}
	s.isReady()
	if status := s.judges(key); status != http.StatusOK || s.used(id) != 2 {
		t.Errorf("with the database: %d, and %d were used", status, s.used(id))
	}
	s.clean()
}

func TestAStoreMovesIntoADatabaseAndBack(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	database := postgrestest.Start(t)
	database.SkewClock(t, "5 hours")
	alone := newServer(t, options{})
	id, key := alone.mint(object{"max_activations": 10, "name": "nightly"})
	for range 3 {
		if status := alone.chat(key); status != http.StatusOK {
			t.Fatalf("a request: %d", status)
		}
	}
	migrate := func(from, to string) string {
		cmd := alone.command("till", "migrate", "--from", from, "--to", to)
		cmd.Env = append(cmd.Env, "TILL_DATABASE_URL="+database.DSN())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "failed: " + string(out)
		}
		return string(out)
	}
	const shared = "postgres:{env.TILL_DATABASE_URL}"
	if said := migrate("badger:"+alone.store(), shared); !strings.Contains(said, "stop the server first") {
		t.Errorf("while the server runs: %s", said)
	}
	alone.stop()
	if said := migrate("badger:"+alone.store(), shared); !strings.Contains(said, ": 1 key, with 3 activations used, and 1 entry of the audit log") {
		t.Fatalf("into the database: %s", said)
	}
	node := newNode(t, database.DSN(), "till-a", options{to: alone.upstream.URL})
	node.isReady()
	if status := node.judges(key); status != http.StatusOK || node.used(id) != 4 {
		t.Errorf("from the database: %d, and %d were used", status, node.used(id))
	}
	if _, answer := node.inTouch("GET", "/audit/verify", nil); answer["ok"] != true {
		t.Errorf("the audit log in the database: %v", answer)
	}
	_, log := node.inTouch("GET", "/audit?action=store.migrate", nil)
	if at, err := time.Parse(time.RFC3339, log["entries"].([]any)[0].(object)["time"].(string)); err != nil || time.Until(at) < 4*time.Hour {
		t.Errorf("the migration was at %s, %v, by another clock than the database's", at, err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if said := migrate(shared, "badger:"+back); !strings.Contains(said, "node till-a uses it") {
		t.Errorf("while a node runs: %s", said)
	}
	node.stop()
	var said string
	node.eventually("its session is over", func() bool { // it expires if the database was late to answer
		said = migrate(shared, "badger:"+back)
		return !strings.Contains(said, "node till-a uses it")
	})
	if !strings.Contains(said, ": 1 key, with 4 activations used") || !strings.Contains(said, " entries of the audit log") {
		t.Fatalf("out of the database: %s", said)
	}
	again := newServer(t, options{store: back, to: alone.upstream.URL})
	if status := again.chat(key); status != http.StatusOK || again.used(id) != 5 {
		t.Errorf("back in a directory: %d, and %d were used", status, again.used(id))
	}
	if out := again.caddyTill("list"); !strings.Contains(out, "nightly") {
		t.Errorf("the list of keys: %s", out)
	}
}
