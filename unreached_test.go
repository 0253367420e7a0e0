package till

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
)

// withSites returns a Caddyfile with upstreams oai and gem, and the given sites from
// line 8 on.
func withSites(text string) string {
	return "{\n\ttill {\n\t\tupstream oai openai\n\t\tupstream gem gemini\n\t}\n}\n(one) {\n\ttill oai\n}\n" + text
}

// TestALineThatIsNeverReachedIsAnError, where that can be detected, and says what to
// write; lines that share a site's requests are accepted.
func TestALineThatIsNeverReachedIsAnError(t *testing.T) {
	t.Parallel()
	const matchers = "\t@a path /a/*\n\t@b path /b/*\n"
	for _, test := range []struct{ name, sites, want string }{
		{"two upstreams", ":80 {\n\ttill oai\n\ttill gem\n}", "write both in one line: till oai gem"},
		{"the other way round", ":80 {\n\ttill gem\n\ttill oai\n}", "Caddyfile:11"},
		{"with the same matcher", ":80 {\n" + matchers + "\ttill @a oai\n\ttill @a gem\n}", "till oai gem"},
		{"with a path matcher twice", ":80 {\n\ttill /a/* oai\n\ttill /a/* gem\n}", "till oai gem"},
		{"all upstreams and one", ":80 {\n\ttill\n\ttill gem\n}", "write one line, till, which serves every upstream"},
		{"an imported snippet", ":80 {\n\timport one\n\ttill gem\n}", "till oai gem"},
		{"in handle", ":80 {\n\thandle /x/* {\n\t\ttill oai\n\t\ttill gem\n\t}\n}", "till oai gem"},
		{"in route", ":80 {\n\troute {\n\t\ttill oai\n\t\ttill gem\n\t}\n}", "till oai gem"},
		{"in handle_path in route", ":80 {\n\troute {\n\t\thandle_path /x/* {\n\t\t\ttill oai\n\t\t\ttill gem\n\t\t}\n\t}\n}", "till oai gem"},
		{"a guard and till", ":80 {\n\ttill guard\n\ttill\n}", "give each a handle block"},
		{"till and a guard", ":80 {\n\ttill oai\n\ttill guard\n}", "give each a handle block"},
		{"a guard of some and till of all", ":80 {\n" + matchers + "\ttill @a guard\n\ttill\n}", "give each a handle block"},
		{"two guards", ":80 {\n\ttill guard\n\ttill guard\n}", "a second till guard"},
		{"two consoles", ":80 {\n\ttill_console\n\ttill_console\n}", "a second till_console"},
		{"two consoles in handle", ":80 {\n\thandle {\n\t\ttill_console\n\t\ttill_console\n\t}\n}", "a second till_console"},

		{"one", ":80 {\n\ttill oai gem\n}", ""},
		{"other matchers", ":80 {\n" + matchers + "\ttill @a oai\n\ttill @b gem\n}", ""},
		{"other matchers and the rest", ":80 {\n" + matchers + "\ttill @a oai\n\ttill @b gem\n\ttill\n}", ""},
		{"other paths", ":80 {\n\ttill /a/* oai\n\ttill /b/* gem\n}", ""},
		{"till of some and a guard of the rest", ":80 {\n" + matchers + "\ttill @a oai\n\ttill guard\n\trespond ok\n}", ""},
		{"blocks of their own", ":80 {\n\thandle /a/* {\n\t\ttill oai\n\t}\n\thandle /b/* {\n\t\ttill guard\n\t\trespond ok\n\t}\n\thandle {\n\t\ttill gem\n\t}\n}", ""},
		{"sites of their own", ":80 {\n\ttill oai\n}\n:81 {\n\ttill gem\n}\n:82 {\n\ttill guard\n}\n:83 {\n\ttill_console\n}\n:84 {\n\ttill_console\n}", ""},
		{"a snippet on two sites", ":80 {\n\timport one\n}\n:81 {\n\timport one\n}", ""},
		{"a console for some addresses", ":80 {\n\t@a remote_ip 10.0.0.0/8\n\ttill_console @a\n}", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := adapt(t, withSites(test.sites))
			switch {
			case test.want == "" && !strings.HasPrefix(got, "{"):
				t.Errorf("is refused: %s", got)
			case test.want != "" && (strings.HasPrefix(got, "{") || !strings.Contains(got, test.want) || !strings.Contains(got, "Caddyfile:")):
				t.Errorf("%.300s\nwant an error with %q and the line", got, test.want)
			case test.want == "":
				if err := validates(t, got); err != nil {
					t.Errorf("does not load: %v", err)
				}
			}
		})
	}
}

// TestARouteThatIsNeverReachedIsAnErrorWhenItIsLoaded: where a Caddyfile's own order
// counts, and in JSON.
func TestARouteThatIsNeverReachedIsAnErrorWhenItIsLoaded(t *testing.T) {
	t.Parallel()
	const matchers = "\t@a path /a/*\n\t@b path /b/*\n"
	for name, sites := range map[string]string{
		"till before till of some":        ":80 {\n" + matchers + "\troute {\n\t\ttill oai\n\t\ttill @a gem\n\t}\n}",
		"a guard before till of some":     ":80 {\n" + matchers + "\troute {\n\t\ttill guard\n\t\ttill @a gem\n\t}\n}",
		"a console before one of some":    ":80 {\n" + matchers + "\troute {\n\t\ttill_console\n\t\ttill_console @a\n\t}\n}",
		"till before till, on one of two": ":80 {\n\ttill\n}\n:81 {\n" + matchers + "\troute {\n\t\ttill oai\n\t\ttill @a gem\n\t}\n}",
	} {
		got := adapt(t, withSites(sites))
		if err := validates(t, got); err == nil || !strings.Contains(err.Error(), "the second sees no request with a key") {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	const handlers = `{"handler":"till","upstreams":["oai"]},{"handler":"till","upstreams":["gem"]}`
	for name, routes := range map[string]string{
		"two routes":        `{"handle":[{"handler":"till","upstreams":["oai"]}]},{"handle":[{"handler":"till","upstreams":["gem"]}]}`,
		"one route":         `{"handle":[` + handlers + `]}`,
		"a subroute":        `{"handle":[{"handler":"subroute","routes":[{"handle":[` + handlers + `]}]}]}`,
		"a route of a host": `{"match":[{"host":["a.example"]}],"handle":[{"handler":"till"}]},{"handle":[{"handler":"till"}]},{"match":[{"path":["/x"]}],"handle":[{"handler":"till","guard":true}]}`,
	} {
		config := `{"apps":{"http":{"servers":{"a":{"listen":[":81"],"routes":[{"handle":[{"handler":"till"}]}]},"s":{"listen":[":80"],"routes":[` + routes + `]}}},"till":{"upstreams":{"oai":{"preset":"openai"},"gem":{"preset":"gemini"}}}}}`
		if err := validates(t, config); err == nil || !strings.Contains(err.Error(), "the second sees no request with a key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestALineThatStandsTwiceAddsOrIsAnError: no line of a till block is silently
// overridden by a later one.
func TestALineThatStandsTwiceAddsOrIsAnError(t *testing.T) {
	t.Parallel()
	adds := map[string]bool{"allow": true, "free": true, "upgrades": true, "redirects": true, "allow_field": true, "strip_tools": true, "header_up": true, "header_down": true, "unhealthy_status": true}
	options := map[string][2]string{
		"to": {"http://a.example", "http://a.example"}, "credential": {"{env.A}", "{env.B}"}, "auth": {"query a", "query b"}, "allow": {"GET /a", "GET /b"}, "free": {"GET /a", "GET /b"},
		"upgrades": {"/a", "/b"}, "cors": {"https://a.example", "https://b.example"}, "cookies": {"pass", "drop"}, "redirects": {"pass a.example", "pass b.example"},
		"output_field": {"max_tokens", "both"}, "input_extra": {"1", "2"}, "multiply": {"1.1", "1.2"}, "ask_usage": {"on", "off"}, "service_tier": {"default", "auto"}, "allow_field": {"a", "b"},
		"strip_tools": {"web_search", "code_interpreter"}, "drain": {"1s", "2s"}, "count_exact": {"on", "off"},
		"lb_policy": {"first", "random"}, "transport": {"http", "http"}, "header_up": {"X-A a", "X-B b"}, "header_down": {"X-A a", "X-B b"},
		"lb_retries": {"1", "2"}, "unhealthy_status": {"500", "502"}, "max_fails": {"1", "2"}, "unhealthy_request_count": {"1", "2"}, "health_port": {"1", "2"},
		"health_uri": {"/a", "/b"}, "health_status": {"200", "204"}, "health_body": {"a", "b"}, "health_method": {"GET", "HEAD"}, "health_passes": {"1", "2"}, "health_fails": {"1", "2"},
		"health_headers": {"{\nA a\n}", "{\nB b\n}"}, "health_follow_redirects": {"", ""},
	}
	for _, option := range append(slices.Clone(upstreamOptions), proxyOptions...) {
		values, ok := options[option]
		if !ok {
			values = [2]string{"1s", "2s"}
			if option == "stream_buffer_size" {
				values = [2]string{"1KB", "2KB"}
			}
		}
		if got := adapt(t, withOption(option+" "+values[0])); !strings.HasPrefix(got, "{") {
			t.Errorf("%s once: %s", option, got)
		}
		got := adapt(t, withOption(option+" "+values[0]+"\n"+option+" "+values[1]))
		if ok := strings.HasPrefix(got, "{"); ok != adds[option] {
			t.Errorf("%s twice: adds %v, %.200s", option, ok, got)
		}
	}
	global := func(lines string) string { return adapt(t, "{\n\ttill {\n"+lines+"\n\t}\n}\n") }
	for _, lines := range []string{
		"store badger /a\nstore badger /b", "seal_key {file./a}\nseal_key {file./a}", "seal_key_file /a\nseal_key_file /b", "public_url https://a.example\npublic_url https://b.example",
		"console_url https://a.example\nconsole_url https://b.example", "max_body 1MB\nmax_body 2MB", "anchor /a\nanchor /b", "prices /a\nprices /b", "retain 1d\nretain 2d",
		"audit_retain 10d\naudit_retain 20d", "stale_after 1d\nstale_after 2d", "price openai/a 1 2\nprice openai/a 3 4", "unknown_price refuse\nunknown_price count_only",
		"upstream a http://a.example\nupstream a http://b.example", "role a {\n}\nrole a {\n}", "role a {\nsees own\nsees all\n}",
		"upstream a http://a.example {\nto http://b.example\n}", "upstream a http://a.example {\nto http://a.example\n}", "upstream a http://a.example/v1 openai",
		"webhook https://a.example {\nsecret {env.A}\nevents key_exhausted\nevents key_exhausted\n}",
	} {
		if got := global(lines); strings.HasPrefix(got, "{") {
			t.Errorf("%s: is accepted", lines)
		}
	}
	for _, lines := range []string{"seal_key {file./a}\nseal_key {file./b}", "price openai/a 1 2\nprice openai/b 3 4", "upstream a {\nto http://a.example\nto http://b.example\n}"} {
		if got := global(lines); !strings.HasPrefix(got, "{") {
			t.Errorf("%s: %s", lines, got)
		}
	}
}

// provisioning is held while Caddy provisions a configuration, which it can do for only
// one at a time.
var provisioning sync.Mutex

// validates loads a configuration as `caddy validate` does, with a store of its own.
func validates(t *testing.T, config string) error {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	apps := c["apps"].(map[string]any)
	if apps["till"] != nil {
		apps["till"].(map[string]any)["store"] = map[string]any{"module": "badger", "path": t.TempDir()}
	}
	c["admin"] = map[string]any{"disabled": true}
	c["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var parsed caddy.Config
	if err := json.Unmarshal(b, &parsed); err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	return caddy.Validate(&parsed)
}
