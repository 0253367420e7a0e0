package till

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

// TestACredentialThatCannotBeOneIsRefusedAtTheStart, and a doubtful one is reported,
// from a file as from the environment.
func TestACredentialThatCannotBeOneIsRefusedAtTheStart(t *testing.T) {
	scoped, _, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	const secret = "sk-sekret-0123456789"
	vendor, elsewhere := "openai {", "mock openai {\nto http://127.0.0.1:19000"
	own := "own http://127.0.0.1:19000 {\nauth "
	for name, test := range map[string]struct {
		upstream, text string
		wrong, doubt   string
	}{
		"a key":                            {vendor, secret + "\n", "", ""},
		"a key, from Windows":              {vendor, secret + "\r\n", "", ""},
		"a key with spaces around it":      {vendor, "  " + secret + " \n\n", "", ""},
		"nothing":                          {vendor, "", "is empty", ""},
		"a line end":                       {vendor, "\n", "is empty", ""},
		"a mark":                           {vendor, "\ufeff" + secret, "byte order mark", ""},
		"a variable":                       {vendor, "OPENAI_API_KEY=" + secret, "NAME=value", ""},
		"quotes":                           {vendor, `"` + secret + `"`, "quotes", ""},
		"Bearer":                           {vendor, "Bearer " + secret, "Bearer", ""},
		"Bearer for a header without it":   {"anthropic {", "Bearer " + secret, "Bearer", ""},
		"a scoped key":                     {vendor, scoped.Reveal(), "scoped key", ""},
		"a scoped key in disguise":         {vendor, "sk-" + scoped.Reveal(), "scoped key", ""},
		"a scoped key of another till":     {elsewhere, scoped.Reveal(), "", "scoped key"},
		"a mark, at a header of its own":   {own + "header X-Token", "\ufeff" + secret, "byte order mark", ""},
		"a variable, at such a header":     {own + "header X-Token", "X_TOKEN=" + secret, "", "NAME=value"},
		"Bearer, at a whole Authorization": {own + "header Authorization", "Bearer " + secret, "", ""},
		"Bearer, twice":                    {own + "header Authorization Bearer", "Bearer " + secret, "Bearer", ""},
		"spaces in a password":             {own + "basic password", "sekret horse battery", "", "spaces"},
		"quotes in a query":                {own + "query key", "'" + secret + "'", "", "quotes"},
		"lines of a password":              {own + "basic password", "sekret\nhorse", "one line", ""},
	} {
		for _, from := range []string{"file", "env"} {
			t.Run(name+", "+from, func(t *testing.T) {
				dir := t.TempDir()
				credential := "{env.TILL_TEST_CREDENTIAL}"
				if from == "file" {
					file(t, filepath.Join(dir, "key"), test.text, 0o600)
					credential = "{file." + dir + "/key}"
				} else {
					t.Setenv("TILL_TEST_CREDENTIAL", test.text)
				}
				app, err := configured(t, strings.NewReplacer("DIR", dir, "UPSTREAM", test.upstream, "CREDENTIAL", credential).Replace(`{
	storage file_system DIR/caddy
	till {
		store badger DIR/store
		upstream UPSTREAM
			credential CREDENTIAL
		}
	}
}
`))
				if (err != nil) != (test.wrong != "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
					t.Fatalf("%v, want %q", err, test.wrong)
				}
				if err != nil {
					if strings.Contains(err.Error(), "sekret") || strings.Contains(err.Error(), "till_sk_") {
						t.Errorf("it repeats the text: %v", err)
					}
					return
				}
				var doubts []wire.Finding
				for _, f := range app.Diagnose() {
					if f.Check == "doubtful_secret" {
						doubts = append(doubts, f)
					}
				}
				if (len(doubts) > 0) != (test.doubt != "") || len(doubts) > 0 && !strings.Contains(doubts[0].What, test.doubt) {
					t.Errorf("doctor finds %+v, want %q", doubts, test.doubt)
				}
				for _, f := range doubts {
					if strings.Contains(f.What, "sekret") || strings.Contains(f.What, "till_sk_") {
						t.Errorf("it repeats the text: %+v", f)
					}
				}
			})
		}
	}
}
