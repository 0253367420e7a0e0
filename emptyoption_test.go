package till

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestAnOptionThatIsEmptyIsNotOneThatIsLeftOut writes every option of the global block,
// of an upstream and of a role without a value, as an unset variable leaves it, and
// with an empty value.
func TestAnOptionThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	const site = "\n:8080 {\n\ttill\n}\n"
	in := map[string]string{
		"":         "{\n\ttill {\n\t\tupstream openai {\n\t\t\tcredential {env.K}\n\t\t}\n\t\tLINE\n\t}\n}" + site,
		"upstream": "{\n\ttill {\n\t\tupstream mock openai {\n\t\t\tLINE\n\t\t}\n\t}\n}" + site,
		"role":     "{\n\ttill {\n\t\tupstream openai\n\t\trole r {\n\t\t\tLINE\n\t\t}\n\t}\n}" + site,
	}
	options := map[string][]string{
		"": {"store", "anchor", "retain", "audit_retain", "stale_after", "seal_key", "seal_key_file", "public_url", "console_url",
			"max_body", "prices", "price", "unknown_price", "webhook", "upstream", "role"},
		"upstream": upstreamOptions,
		"role":     strings.Split(roleOptions, ", "),
	}
	for block, text := range in {
		if got := adapt(t, strings.Replace(text, "LINE", "", 1)); !strings.HasPrefix(got, "{") {
			t.Fatalf("without the line: %s", got)
		}
		for _, option := range options[block] {
			for _, value := range []string{"{$TILL_NOT_SET}", `""`, `"{$TILL_NOT_SET}"`, `a ""`} {
				if got := adapt(t, strings.Replace(text, "LINE", option+" "+value, 1)); strings.HasPrefix(got, "{") {
					t.Errorf("%s %s: it is taken", option, value)
				}
			}
		}
	}
}

// TestAListThatIsEmptyIsNoCeiling does the same in JSON, and with placeholders, which
// are not replaced in any of these lists.
func TestAListThatIsEmptyIsNoCeiling(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"permissions", "upstreams", "models", "methods", "paths", "ips"} {
		for _, list := range []string{`[]`, `[""]`, `["{env.TILL_NOT_SET}"]`, `["{file./none}"]`} {
			r := new(Role)
			if err := json.Unmarshal(fmt.Appendf(nil, `{%q:%s}`, field, list), r); err != nil {
				t.Fatal(err)
			}
			_, err := r.resolve()
			if err == nil {
				err = r.checkUpstreams(nil)
			}
			if err == nil {
				t.Errorf("%s %s: it is taken", field, list)
			}
		}
	}
	for _, list := range []string{`[]`, `[""]`, `["{env.TILL_NOT_SET}"]`} {
		config := `{"apps":{"till":{"upstreams":{"oai":{"preset":"openai"}}},"http":{"servers":{"s":{"listen":[":80"],"routes":[{"handle":[{"handler":"till","upstreams":` + list + `}]}]}}}}}`
		if err := validates(t, config); err == nil {
			t.Errorf("the upstreams of a handler are %s: it is taken", list)
		}
	}
	for _, field := range []string{"to", "allow", "free", "upgrades", "cors", "redirects_pass", "allow_field", "strip_tools"} {
		for _, list := range []string{`[]`, `[""]`, `["{env.TILL_NOT_SET}"]`} {
			u := new(Upstream)
			if err := json.Unmarshal(fmt.Appendf(nil, `{"preset":"openai",%q:%s}`, field, list), u); err != nil {
				t.Fatal(err)
			}
			if _, err := u.resolve("mock"); err == nil {
				t.Errorf("%s %s: it is taken", field, list)
			}
		}
	}
}
