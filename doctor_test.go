package till

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/upstream"
)

// configured returns a Caddyfile's till app, provisioned and not started.
func configured(t *testing.T, caddyfile string) (*App, error) {
	t.Helper()
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, cfg); err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	ctx, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, err
	}
	app, err := ctx.App("till")
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

// diagnosed returns what doctor finds in a Caddyfile, without a running server.
func diagnosed(t *testing.T, caddyfile string) []wire.Finding {
	t.Helper()
	app, err := configured(t, caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	return app.Diagnose()
}

// soundSite is a configuration in which doctor finds nothing, except that the anchor
// may be on the store's volume.
const soundSite = `{
	admin unix//DIR/admin.sock|0600
	auto_https off
	grace_period 20s
	storage file_system DIR/caddy
	log default {
		format filter {
			request>headers>X-Api-Key delete
			request>headers>Api-Key delete
			request>headers>X-Goog-Api-Key delete
			request>headers>Sec-Websocket-Protocol delete
			request>uri query {
				delete key
			}
		}
	}
	log of_till {
		include till
	}
	till {
		store badger DIR/store
		seal_key {file.DIR/secrets/seal}
		public_url https://agents.example.com
		upstream mock openai {
			to http://127.0.0.1:19000
			credential {file.DIR/secrets/mock}
		}
		role ci {
			permissions keys:create
			max_activations 500
		}
	}
}
http://127.0.0.1:18080 {
	bind 127.0.0.1
	till
}
`

func TestDoctorFindsEachFault(t *testing.T) {
	for name, test := range map[string]struct {
		replace []string // in soundSite
		before  func(t *testing.T, dir string)
		check   string
		level   wire.Level
		what    string
	}{
		"a literal credential": {[]string{"credential {file.DIR/secrets/mock}", "credential sk-literal-secret"}, nil,
			"literal_credential", wire.LevelError, "upstream mock"},
		"a literal seal key": {[]string{"seal_key {file.DIR/secrets/seal}", "seal_key " + strings.Repeat("5e", 32)}, nil,
			"literal_credential", wire.LevelError, "seal key 1"},
		"a credential over plain HTTP": {[]string{"to http://127.0.0.1:19000", "to http://192.0.2.1:19000"}, nil,
			"plain_upstream", wire.LevelError, "http://192.0.2.1:19000"},
		"keys over plain HTTP": {[]string{"bind 127.0.0.1", "bind 0.0.0.0", "public_url https://agents.example.com", "public_url http://localhost:18080"}, nil,
			"plain_http", wire.LevelError, "without TLS"},
		"admin tokens over plain HTTP": {[]string{"bind 127.0.0.1\n\ttill", "bind 0.0.0.0\n\ttill_console", "public_url https://agents.example.com", "public_url http://localhost:18080"}, nil,
			"plain_http", wire.LevelError, "admin tokens are taken"},
		"keys over plain HTTP behind a proxy with TLS": {[]string{"bind 127.0.0.1", "bind 0.0.0.0"}, nil,
			"plain_http", wire.LevelWarning, "a proxy in front of it"},
		"clients told a plain address": {[]string{"public_url https://agents.example.com", "public_url http://agents.example.com"}, nil,
			"plain_http", wire.LevelError, "clients are given"},
		"no public_url": {[]string{"public_url https://agents.example.com\n", ""}, nil,
			"public_url", wire.LevelWarning, "no public_url"},
		"an admin endpoint on TCP": {[]string{"admin unix//DIR/admin.sock|0600", "admin 127.0.0.1:2019"}, nil,
			"admin_endpoint", wire.LevelWarning, "every agent on it"},
		"an admin endpoint on the network": {[]string{"admin unix//DIR/admin.sock|0600", "admin 0.0.0.0:2019"}, nil,
			"admin_endpoint", wire.LevelError, "over the network"},
		"an admin socket of others": {[]string{"admin unix//DIR/admin.sock|0600", "admin unix//DIR/open.sock"}, func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "open.sock"), "", 0o666)
		}, "admin_endpoint", wire.LevelError, "0666"},
		"a credential file of others": {nil, func(t *testing.T, dir string) { chmod(t, dir+"/secrets/mock", 0o644) },
			"readable_file", wire.LevelError, "secrets/mock"},
		"a credential file of a group": {nil, func(t *testing.T, dir string) { chmod(t, dir+"/secrets/mock", 0o640) },
			"readable_file", wire.LevelWarning, "secrets/mock"},
		"a seal key of others": {nil, func(t *testing.T, dir string) { chmod(t, dir+"/secrets/seal", 0o644) },
			"readable_file", wire.LevelError, "the seal key"},
		"a webhook's secret of others": {[]string{"store badger DIR/store", "store badger DIR/store\nwebhook https://ops.example.com {\nsecret {file.DIR/hook}\n}"}, func(t *testing.T, dir string) {
			file(t, dir+"/hook", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", 0o644)
		}, "readable_file", wire.LevelError, "the secret of a webhook"},
		"a store of others": {nil, func(t *testing.T, dir string) { chmod(t, dir+"/store", 0o755) },
			"readable_file", wire.LevelError, "the store's directory"},
		"an anchor of others": {[]string{"store badger DIR/store", "store badger DIR/store\nanchor DIR/anchor"}, func(t *testing.T, dir string) { file(t, dir+"/anchor", "", 0o644) },
			"readable_file", wire.LevelError, "the anchor"},
		"prices of others": {[]string{"store badger DIR/store", "store badger DIR/store\nprices DIR/prices.json"}, func(t *testing.T, dir string) {
			file(t, dir+"/prices.json", `{"schema":"till.prices/1","models":[]}`, 0o666)
		}, "writable_file", wire.LevelError, "prices.json"},
		"prices where others write": {[]string{"store badger DIR/store", "store badger DIR/store\nprices DIR/open/prices.json"}, func(t *testing.T, dir string) {
			if err := os.Mkdir(dir+"/open", 0o700); err != nil {
				t.Fatal(err)
			}
			file(t, dir+"/open/prices.json", `{"schema":"till.prices/1","models":[]}`, 0o644)
			chmod(t, dir+"/open", 0o777)
		}, "writable_file", wire.LevelError, "where the file of prices is"},
		"a seal key where others write": {nil, func(t *testing.T, dir string) { chmod(t, dir+"/secrets", 0o777) },
			"writable_file", wire.LevelError, "where the seal key is"},
		"a store where others write": {[]string{"store badger DIR/store", "store badger DIR/open/store"}, func(t *testing.T, dir string) {
			if err := os.MkdirAll(dir+"/open/store", 0o700); err != nil {
				t.Fatal(err)
			}
			chmod(t, dir+"/open", 0o772)
		},
			"writable_file", wire.LevelError, "where the store is"},
		"an anchor on the store's volume": {nil, nil, "anchor_place", wire.LevelWarning, "same volume"},
		"a seal key beside the store": {[]string{"{file.DIR/secrets/seal}", "{file.DIR/seal}"}, func(t *testing.T, dir string) {
			file(t, dir+"/seal", strings.Repeat("5e", 32), 0o600)
		}, "seal_key_place", wire.LevelWarning, "beside the store"},
		"a server that waits for ever": {[]string{"\tgrace_period 20s\n", ""}, nil, "grace_period", wire.LevelWarning, "waits for every open stream"},
		"a role without ceilings":      {[]string{"max_activations 500", ""}, nil, "open_role", wire.LevelWarning, "role ci"},
		"logs that hold keys": {[]string{"bind 127.0.0.1", "bind 127.0.0.1\nlog", "\t\t\trequest>headers>Api-Key delete\n", ""}, nil,
			"log_filter", wire.LevelError, "the logger default"},
		"logs that hold keys of WebSockets": {[]string{"bind 127.0.0.1", "bind 127.0.0.1\nlog", "\t\t\trequest>headers>Sec-Websocket-Protocol delete\n", ""}, nil,
			"log_filter", wire.LevelError, "Sec-Websocket-Protocol"},
		"an error log that holds keys": {[]string{"\t\t\trequest>headers>X-Api-Key delete\n", ""}, nil,
			"log_filter", wire.LevelWarning, "if a handler fails"},
		"logs with credentials": {[]string{"bind 127.0.0.1", "bind 127.0.0.1\nlog", "auto_https off", "auto_https off\nservers {\nlog_credentials\n}"}, nil,
			"log_filter", wire.LevelError, "log_credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"secrets", "store"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			file(t, dir+"/secrets/mock", "sk-mock", 0o600)
			file(t, dir+"/secrets/seal", strings.Repeat("5e", 32), 0o600)
			if test.before != nil {
				test.before(t, dir)
			}
			text := soundSite
			for i := 0; i < len(test.replace); i += 2 {
				if strings.Count(text, test.replace[i]) != 1 {
					t.Fatalf("%q does not stand once in\n%s", test.replace[i], text)
				}
				text = strings.Replace(text, test.replace[i], test.replace[i+1], 1)
			}
			found := diagnosed(t, strings.ReplaceAll(text, "DIR", dir))
			i := slices.IndexFunc(found, func(f wire.Finding) bool { return f.Check == test.check && strings.Contains(f.What, test.what) })
			if i < 0 {
				t.Fatalf("%s is not among %+v", test.check, found)
			}
			if f := found[i]; f.Level != test.level || f.Fix == "" {
				t.Errorf("the finding is %+v, want a %s", f, test.level)
			}
			for _, f := range found {
				if f.Check != test.check && f.Check != "anchor_place" {
					t.Errorf("there is also %+v", f)
				}
				if strings.Contains(fmt.Sprint(f), "sk-") || strings.Contains(fmt.Sprint(f), "5e5e") {
					t.Errorf("it shows a secret: %+v", f)
				}
			}
		})
	}
}

func TestDoctorFindsOldPrices(t *testing.T) {
	t.Parallel()
	a := &App{prices: new(atomic.Pointer[upstream.Prices])}
	a.prices.Store(upstream.BuiltInPrices())
	asOf, err := time.Parse(time.DateOnly, a.PriceTable().AsOf)
	if err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int]bool{44: false, 45: true, 400: true} {
		if _, old := a.oldPrices(asOf.AddDate(0, 0, days)); old != want {
			t.Errorf("after %d days old is %v", days, old)
		}
	}
}

func file(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
