package till

import (
	"strings"
	"testing"
)

// TestAServerWhoseClientsChooseTheirAddressIsRefused: wherever keys or admin tokens
// are taken, rules about addresses can be used.
func TestAServerWhoseClientsChooseTheirAddressIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		servers string
		refused bool
	}{
		"no proxy":                          {"", false},
		"timeouts alone":                    {"servers {\nkeepalive_interval 10s\n}", false},
		"a proxy":                           {"servers {\ntrusted_proxies static 192.0.2.1/32\n}", true},
		"a private network":                 {"servers {\ntrusted_proxies static private_ranges\n}", true},
		"a proxy on a socket":               {"servers {\ntrusted_proxies_unix\n}", true},
		"a proxy with a header of its own":  {"servers {\ntrusted_proxies static 192.0.2.1/32\nclient_ip_headers Cf-Connecting-Ip\n}", true},
		"a proxy, strictly":                 {"servers {\ntrusted_proxies static 192.0.2.1/32\ntrusted_proxies_strict\n}", false},
		"a proxy on a socket, strictly":     {"servers {\ntrusted_proxies_unix\ntrusted_proxies_strict\n}", false},
		"a header of its own, strictly":     {"servers {\ntrusted_proxies static 192.0.2.1/32\nclient_ip_headers Cf-Connecting-Ip\ntrusted_proxies_strict\n}", false},
		"a proxy, for another server alone": {"servers :18099 {\ntrusted_proxies static 192.0.2.1/32\n}", false},
	} {
		for _, site := range []string{"till", "till guard", "till_console", "handle /x/* {\ntill\n}", "route {\ntill\n}"} {
			t.Run(name+", "+strings.ReplaceAll(site, "\n", " "), func(t *testing.T) {
				_, err := configured(t, strings.NewReplacer("DIR", t.TempDir(), "SERVERS", test.servers, "SITE", site).Replace(`{
	storage file_system DIR/caddy
	auto_https off
	SERVERS
	till {
		store badger DIR/store
		upstream mock openai {
			to http://127.0.0.1:19000
			credential sk-mock-0123456789
		}
	}
}
http://127.0.0.1:18080 {
	SITE
}
http://127.0.0.1:18099 {
	respond "not of till"
}
`))
				if (err != nil) != test.refused {
					t.Fatal(err)
				}
				if err != nil && (!strings.Contains(err.Error(), errForgeable.Error())) {
					t.Error(err)
				}
			})
		}
	}
}
