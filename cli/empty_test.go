package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/till-proxy/till/admin/wire"
)

// TestAFlagThatIsEmptyIsNotOneThatIsLeftOut gives every flag of every command an
// empty value, and every list an empty entry.
func TestAFlagThatIsEmptyIsNotOneThatIsLeftOut(t *testing.T) {
	t.Parallel()
	for path, cmd := range tree() {
		if path == "" {
			continue
		}
		check := func(flag *pflag.Flag) {
			values := []string{"", " "}
			switch flag.Value.Type() {
			case "bool": // pflag itself refuses them
				values = []string{""}
			case "stringSlice":
				values = append(values, ",", "a,", ",a", "a,,b")
			case "stringToString":
				values = append(values, "=", "a=", "=a", "a=1,b=")
			}
			for _, value := range values {
				want := 2
				if path == runName {
					want = exitRun
				}
				r := till(t, append(strings.Fields(path), "--"+flag.Name+"="+value)...)
				// Numbers say so in pflag's words.
				says := strings.Contains(r.err, "empty") || !strings.HasPrefix(flag.Value.Type(), "string")
				if r.code != want || r.out != "" || !strings.Contains(r.err, "--"+flag.Name) || !says {
					t.Errorf("%s --%s=%q: exit %d, want %d: %s%s", path, flag.Name, value, r.code, want, r.out, r.err)
				}
			}
		}
		cmd.NonInheritedFlags().VisitAll(check)
		cmd.InheritedFlags().VisitAll(check)
	}
}

func TestAnArgumentThatIsEmptyIsUsage(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"show", "revoke", "leak", "backup", "restore", "prices", "token create", "token revoke", "audit verify", "audit export", "env", "run --"} {
		want := 2
		if strings.HasPrefix(line, runName) {
			want = exitRun
		}
		if r := till(t, append(strings.Fields(line), "", "--address", "127.0.0.1:1")...); r.code != want && line != "run --" || !strings.Contains(r.err, "must not be empty") {
			t.Errorf("%s: exit %d: %s%s", line, r.code, r.out, r.err)
		}
	}
}

// TestAZeroThatIsGivenIsALimit: a flag that is given as 0 is not taken for one that
// was left out.
func TestAZeroThatIsGivenIsALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := till(t, "create", "--upstream", "openai", "--max-activations", "5", "--max-spend-cents", "0", "--json", "--address", w.Serve())
	var k wire.KeyObject
	if err := json.Unmarshal([]byte(r.out), &k); err != nil || k.MaxSpendUSD == "" {
		t.Errorf("%v: %+v: %s", err, k, r.err)
	}
}
