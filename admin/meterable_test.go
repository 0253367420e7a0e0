package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// TestNoKeyIsMintedWithLimitsThatItsUpstreamCannotMeter combines every limit that needs
// metered use with an upstream that reports its use and one that does not.
func TestNoKeyIsMintedWithLimitsThatItsUpstreamCannotMeter(t *testing.T) {
	t.Parallel()
	plain := func(*record.Role) {}
	for name, test := range map[string]struct {
		role        func(*record.Role)
		mint, patch string
		metered     bool
	}{
		"activations":            {role: plain, mint: `"max_activations":1`},
		"a budget of requests":   {role: func(r *record.Role) { r.Budget.Limit[record.Activations] = 5 }, mint: `"max_activations":1`},
		"tokens":                 {role: plain, mint: `"max_tokens":1000`, metered: true},
		"dollars":                {role: plain, mint: `"max_spend_usd":"1"`, metered: true},
		"cents":                  {role: plain, mint: `"max_spend_cents":1`, metered: true},
		"a bound of one request": {role: plain, mint: `"max_spend_usd":"1","max_request_spend_usd":"0.1"`, metered: true},
		"a ceiling in tokens":    {role: func(r *record.Role) { r.Max[record.Tokens] = 5 }, mint: `"max_activations":1`, metered: true},
		"a ceiling in dollars":   {role: func(r *record.Role) { r.Max[record.Nanodollars] = 5 }, mint: `"max_activations":1`, metered: true},
		"a budget in tokens":     {role: func(r *record.Role) { r.Budget.Limit[record.Tokens] = 5 }, mint: `"max_activations":1`, metered: true},
		"a budget in dollars":    {role: func(r *record.Role) { r.Budget.Limit[record.Nanodollars] = 5 }, mint: `"max_activations":1`, metered: true},
		"tokens, later":          {role: plain, mint: `"max_activations":1`, patch: `"max_tokens":1000`, metered: true},
		"dollars, later":         {role: plain, mint: `"max_activations":1`, patch: `"max_spend_usd":"1"`, metered: true},
	} {
		role := record.NewRole()
		role.Permissions, role.Sees = record.Permissions, record.SeesAll
		test.role(&role)
		w := newWorld(t)
		if err := w.SetRoles(map[string]record.Role{"r": role}); err != nil {
			t.Fatal(err)
		}
		anna := w.as(w.newToken("anna", "r").Token)
		for who, by := range map[string]struct {
			*world
			role string
		}{"a member": {anna, ""}, "the operator": {w, `"role":"r",`}} {
			for _, upstream := range []string{"github", "openai"} {
				a := by.Do("POST", "/keys", fmt.Sprintf(`{"upstream":%q,%s%s}`, upstream, by.role, test.mint))
				if test.patch != "" {
					a = by.Do("PATCH", "/keys/"+admintest.Get[wire.KeyObject](t, a).ID, "{"+test.patch+"}")
				}
				refused := test.metered && upstream == "github"
				if refused != (a.Status == http.StatusBadRequest && strings.Contains(a.Body, "with a preset, because")) || !refused && a.Status/100 != 2 {
					t.Errorf("%s at %s, by %s: %d %s", name, upstream, who, a.Status, a.Body)
				}
			}
		}
	}
}

// TestWhatARuleNeedsMayComeFromACeiling is about rules of a key that need another
// rule, which the key's role supplies.
func TestWhatARuleNeedsMayComeFromACeiling(t *testing.T) {
	t.Parallel()
	full := record.NewRole()
	full.Permissions, full.Sees = record.Permissions, record.SeesAll
	capped, shared := full, full
	capped.Max[record.Activations], capped.Max[record.Nanodollars] = 100, 5e9
	shared.Budget.Limit[record.Nanodollars] = 5e9
	w := newWorld(t)
	if err := w.SetRoles(map[string]record.Role{"none": full, "capped": capped, "shared": shared}); err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct {
		role, mint, patch, wants string // wants: what is refused
	}{
		{"none", `"max_activations":1,"max_request_spend_usd":"0.1"`, "", "max_request_spend_usd needs max_spend_usd"},
		{"capped", `"max_request_spend_usd":"0.1"`, "", ""},
		{"shared", `"max_activations":1,"max_request_spend_usd":"0.1"`, "", ""}, // the budget counts dollars
		{"none", `"expires_in":"1h","charge":"success"`, "", "needs max_activations"},
		{"capped", `"charge":"success"`, "", ""},
		{"none", ``, "", "set at least one of"},
		{"capped", ``, "", ""},
		{"none", `"max_activations":1`, `"max_request_spend_usd":"0.1"`, "max_request_spend_usd needs max_spend_usd"},
		{"none", `"max_spend_usd":"1","max_request_spend_usd":"0.1"`, `"max_spend_usd":null,"max_activations":1`, "max_request_spend_usd needs max_spend_usd"},
		{"capped", `"max_spend_usd":"1","max_request_spend_usd":"0.1"`, `"max_spend_usd":null`, ""},
		{"none", `"max_activations":1`, `"max_activations":null`, "leave a key that nothing ends"},
		{"capped", `"max_activations":1`, `"max_activations":null,"max_spend_usd":null`, ""},
		{"none", `"max_activations":1,"charge":"success"`, `"max_activations":null,"max_tokens":1000`, "needs max_activations"},
		{"capped", `"max_activations":1,"charge":"success"`, `"max_activations":null`, ""},
	} {
		by := w.as(w.newToken(fmt.Sprint("holder ", i), test.role).Token)
		body := `"upstream":"openai"`
		if test.mint != "" {
			body += "," + test.mint
		}
		a := by.Do("POST", "/keys", "{"+body+"}")
		if test.patch != "" {
			a = by.Do("PATCH", "/keys/"+admintest.Get[wire.KeyObject](t, a).ID, "{"+test.patch+"}")
		}
		if (a.Status/100 == 2) != (test.wants == "") || test.wants != "" && !strings.Contains(a.Body, test.wants) {
			t.Errorf("under %s: {%s}, then {%s}: %d %s", test.role, test.mint, test.patch, a.Status, a.Body)
		}
	}
}

// TestAMintThatNamesNoUpstreamIsForTheOnlyOne considers only the upstreams that the
// key's role allows.
func TestAMintThatNamesNoUpstreamIsForTheOnlyOne(t *testing.T) {
	t.Parallel()
	all := record.NewRole()
	all.Permissions = record.Permissions
	one, two, metered, spare, gone := all, all, all, all, all
	one.Upstreams = []string{"github"}
	two.Upstreams = []string{"github", "openai"}
	metered.Max[record.Nanodollars] = 5e9
	spare.Upstreams = []string{"spare", "openai"}
	gone.Upstreams = []string{"elsewhere"}
	w := newWorld(t)
	roles := map[string]record.Role{"all": all, "one": one, "two": two, "metered": metered, "spare": spare, "gone": gone}
	if err := w.SetRoles(roles); err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]string{
		"all":     "upstream must be one of: github, openai, spare",
		"one":     `"upstream":"github"`,
		"two":     "upstream must be one of: github, openai",
		"metered": `"upstream":"openai"`, // nothing is known about github's use
		"spare":   `"upstream":"openai"`, // the other one has no credential
		"gone":    "upstream must be one of: ",
	} {
		anna := w.as(w.newToken("anna of "+role, role).Token)
		for who, a := range map[string]admintest.Answer{
			"a member":     anna.Do("POST", "/keys", `{"max_activations":1}`),
			"the operator": w.Do("POST", "/keys", `{"max_activations":1,"role":"`+role+`"}`),
		} {
			if !strings.Contains(a.Body, want) {
				t.Errorf("%s of %s: %d %s", who, role, a.Status, a.Body)
			}
		}
		if a := anna.Do("POST", "/keys", `{"max_activations":1,"upstream":"openai"}`); role == "one" && a.Status != http.StatusForbidden {
			t.Errorf("another one by name: %d %s", a.Status, a.Body)
		}
	}
}
