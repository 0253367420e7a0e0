package till

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/till-proxy/till/upstream"
)

// TestOptionsInJSONThatDoNotWhatTheySayAreNamed: there they are the reverse_proxy
// handler's, which takes them all.
func TestOptionsInJSONThatDoNotWhatTheySayAreNamed(t *testing.T) {
	t.Parallel()
	to, err := (&Upstream{Preset: "openai", Auth: &upstream.Auth{In: upstream.InHeader, Name: "private-token"}}).provision("mine")
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string][]string{
		`{}`:                   nil,
		`{"headers":{}}`:       nil,
		`{"health_checks":{}}`: nil,
		`{"headers":{"request":{"set":{"PRIVATE-TOKEN":["x"]}}}}`:                                     {"PRIVATE-TOKEN"},
		`{"headers":{"request":{"add":{"x-api-key":["x"],"X-Real-Ip":["y"],"X-A":["z"]}}}}`:           {"X-Real-Ip", "x-api-key"},
		`{"headers":{"request":{"set":{"OpenAI-Project":["x"]},"delete":["Authorization"]}}}`:         nil,
		`{"headers":{"response":{"set":{"Private-Token":["x"]}}}}`:                                    nil,
		`{"health_checks":{"passive":{"fail_duration":1000000000,"unhealthy_status":[500,503,504]}}}`: nil,
		`{"health_checks":{"passive":{"fail_duration":1000000000,"unhealthy_status":[500,502]}}}`:     {"unhealthy_status"},
		`{"health_checks":{"passive":{"fail_duration":1000000000,"unhealthy_status":[5]}}}`:           {"unhealthy_status"},
		`{"health_checks":{"passive":{"unhealthy_status":[5]}}}`:                                      nil, // nothing counts
	} {
		proxy := new(reverseproxy.Handler)
		if err := json.Unmarshal([]byte(config), proxy); err != nil {
			t.Fatal(err)
		}
		got := to.doubtsAbout(proxy)
		if len(got) != len(want) {
			t.Errorf("%s: %q, want %q", config, got, want)
			continue
		}
		for i, name := range want {
			if !strings.Contains(got[i], name) {
				t.Errorf("%s: %q, want one about %s", config, got[i], name)
			}
		}
	}
}
