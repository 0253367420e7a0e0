package till

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

func TestARoleInJSONMeansWhatItSays(t *testing.T) {
	t.Parallel()
	app := &App{Upstreams: map[string]*Upstream{"openai": {}}}
	config := `{"researcher": {"permissions": ["keys:create"], "upstreams": ["openai"], "models": ["gpt-*"], "ips": ["10.0.0.0/8"],
		"max_activations": 500, "max_spend_usd": "5.00", "max_lifetime": "24h", "budget": {"spend_usd": "200", "renews": "month"}}, "ci": null}`
	if err := json.Unmarshal([]byte(config), &app.Roles); err != nil {
		t.Fatal(err)
	}
	if err := app.provisionRoles(); err != nil {
		t.Fatal(err)
	}
	r := app.roles["researcher"]
	want := record.Amounts{record.Activations: 500, record.Nanodollars: 5e9}
	if r.Max != want || r.MaxLifetime != 24*time.Hour || r.Sees != record.SeesOwn || r.Budget.Limit[record.Nanodollars] != 200e9 ||
		r.Budget.Renews != record.Monthly || len(r.Scope.IPs) != 1 {
		t.Errorf("the role became %+v", r)
	}
}

func TestARoleThatIsWrongIsNamedWithWhatIsAllowed(t *testing.T) {
	t.Parallel()
	for config, parts := range map[string]string{
		`{"r": {"permissions": ["keys:all"]}}`:                    "role r|keys:all|keys:create",
		`{"r": {"permissions": ["*"]}}`:                           "role r|operator",
		`{"r": {"sees": "mine"}}`:                                 "role r|own, role or all",
		`{"r": {"upstreams": ["nosuch"]}}`:                        "role r|nosuch|openai",
		`{"r": {"max_activations": -1}}`:                          "role r|max_activations",
		`{"r": {"max_tokens": 4611686018427387904}}`:              "role r|max_tokens|2305843009213693951",
		`{"r": {"budget": {"activations": 9223372036854775807}}}`: "role r|budget|2305843009213693951",
		`{"r": {"max_spend_usd": "free"}}`:                        "role r|max_spend_usd",
		`{"r": {"models": ["a*b"]}}`:                              "role r|models",
		`{"r": {"ips": ["10.0.0.1/8"]}}`:                          "role r|10.0.0.0/8",
		`{"r": {"budget": {}}}`:                                   "role r|budget",
		`{"*": {}}`:                                               "a-z",
	} {
		app := &App{Upstreams: map[string]*Upstream{"openai": {}}}
		if err := json.Unmarshal([]byte(config), &app.Roles); err != nil {
			t.Fatal(err)
		}
		err := app.provisionRoles()
		for part := range strings.SplitSeq(parts, "|") {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q named", config, err, part)
			}
		}
	}
}
