package token

import (
	"strings"
	"testing"
)

// TestWhatIsNoCredentialIsNamed: it covers what people paste into files beside a key,
// or instead of one.
func TestWhatIsNoCredentialIsNamed(t *testing.T) {
	t.Parallel()
	const key = "sk-proj-4fT9xQ_abc-0123456789"
	admin, _, err := MintAdmin()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		text, wrong, doubt string // "" where it is fine
	}{
		"a key":                       {key, "", ""},
		"a key in base64, padded":     {"QUJDREVGR0hJSktMTU5PUA==", "", ""},
		"a short key":                 {"ollama", "", ""},
		"a key with a colon":          {"abc:def:0123456789", "", ""},
		"a key with an equals sign":   {"AKIA=0123456789", "", ""},
		"nothing":                     {"", "is empty", ""},
		"a byte order mark":           {"\ufeff" + key, "byte order mark", ""},
		"a mark inside":               {key[:5] + "\ufeff" + key[5:], "byte order mark", ""},
		"UTF-16":                      {"\xff\xfes\x00k\x00-\x00", "UTF-8", ""},
		"UTF-16 without a mark":       {"s\x00k\x00-\x00", "control characters", ""},
		"two lines":                   {key + "\n" + key, "one line", ""},
		"an old Mac's line end":       {key + "\r" + key, "one line", ""},
		"a tab":                       {key + "\t" + key, "cannot be seen", ""},
		"an escape sequence":          {"\x1b[200~" + key, "cannot be seen", ""},
		"a C1 control":                {key + "\u009b", "cannot be seen", ""},
		"a space of no width":         {key[:5] + "\u200b" + key[5:], "cannot be seen", ""},
		"a space that does not break": {key[:5] + "\u00a0" + key[5:], "cannot be seen", ""},
		"a mark of direction":         {"\u202e" + key, "cannot be seen", ""},
		"an admin token":              {admin.Reveal(), "admin token", ""},
		"double quotes":               {`"` + key + `"`, "", "quotes"},
		"single quotes":               {`'` + key + `'`, "", "quotes"},
		"quotes of a text processor":  {"“" + key + "”", "", "quotes"},
		"half of them":                {`"` + key, "", "quotes"},
		"a variable":                  {"OPENAI_API_KEY=" + key, "", "NAME=value"},
		"a variable with spaces":      {"OPENAI_API_KEY = " + key, "", "NAME=value"},
		"a variable in quotes":        {`OPENAI_API_KEY="` + key + `"`, "", "NAME=value"},
		"a variable of another name":  {"GH_PAT=" + key, "", "NAME=value"},
		"a variable in small letters": {"openai_api_key=" + key, "", "NAME=value"},
		"an exported variable":        {"export OPENAI_API_KEY=" + key, "", "NAME=value"},
		"a variable of PowerShell":    {"$env:OPENAI_API_KEY=" + key, "", "NAME=value"},
		"YAML":                        {"api_key: " + key, "", "NAME=value"},
		"JSON":                        {`"api_key": "` + key + `"`, "", "NAME=value"},
		"a header":                    {"Authorization: Bearer " + key, "", "Bearer"},
		"a header of another name":    {"x-api-key: " + key, "", "NAME=value"},
		"Bearer":                      {"Bearer " + key, "", "Bearer"},
		"bearer":                      {"bearer " + key, "", "Bearer"},
		"Basic":                       {"Basic " + key, "", "Bearer"},
		"a space":                     {key + " " + key, "", "spaces"},
		"a remark":                    {key + " # of Anna", "", "spaces"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for what, got := range map[string]struct {
				err  error
				want string
			}{"wrong": {CheckCredential(test.text), test.wrong}, "doubt": {DoubtCredential(test.text), test.doubt}} {
				if what == "doubt" && test.wrong != "" {
					continue
				}
				if (got.err == nil) != (got.want == "") || got.err != nil && !strings.Contains(got.err.Error(), got.want) {
					t.Errorf("%s: %v, want %q", what, got.err, got.want)
				}
				if got.err != nil && strings.Contains(got.err.Error(), "4fT9x") {
					t.Errorf("it repeats the text: %v", got.err)
				}
			}
		})
	}
}
