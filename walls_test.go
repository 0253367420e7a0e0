package till

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestTheWallsBetweenPackagesStand checks who may import whom.
func TestTheWallsBetweenPackagesStand(t *testing.T) {
	t.Parallel()
	const module = "github.com/till-proxy/till/"
	for _, test := range []struct {
		name   string
		ours   []string // packages of ours that it may import
		strict bool     // neither Caddy nor net/http nor zap
	}{
		{"token", nil, true},
		{"scope", nil, true},
		{"limiter", []string{"token", "scope"}, true},
		{"upstream", []string{"token", "scope"}, false},
		{"admin/console", []string{"token", "scope", "limiter"}, false},
		{"admin", []string{"token", "scope", "limiter", "upstream"}, false},
	} {
		out, err := exec.Command("go", "list", "-deps", "./"+test.name).Output()
		if err != nil {
			t.Fatal(err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			ours, isOurs := strings.CutPrefix(dep, module)
			switch {
			case dep == strings.TrimSuffix(module, "/"):
				t.Errorf("%s imports the root", test.name)
			case isOurs && ours != test.name && !slices.Contains(test.ours, ours):
				t.Errorf("%s imports %s", test.name, ours)
			case test.strict && (strings.HasPrefix(dep, "github.com/caddyserver/") || strings.HasPrefix(dep, "go.uber.org/zap")):
				t.Errorf("%s imports %s", test.name, dep)
			}
		}
		direct, err := exec.Command("go", "list", "-f", `{{join .Imports " "}}`, "./"+test.name).Output()
		if err != nil {
			t.Fatal(err)
		}
		if test.strict && slices.Contains(strings.Fields(string(direct)), "net/http") {
			t.Errorf("%s imports net/http", test.name)
		}
	}
}
