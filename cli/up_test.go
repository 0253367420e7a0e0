package cli

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
)

func getenv(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestUpFindsProvidersInTheEnvironment(t *testing.T) {
	t.Parallel()
	const scoped = "till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2"
	for name, test := range map[string]struct {
		env   map[string]string
		found []string
		notes []string
	}{
		"nothing":                           {nil, nil, nil},
		"something else":                    {map[string]string{"GITHUB_TOKEN": "x"}, nil, nil},
		"only blanks":                       {map[string]string{"OPENAI_API_KEY": "  "}, nil, nil},
		"two, in the presets' order":        {map[string]string{"GROQ_API_KEY": "x", "ANTHROPIC_API_KEY": "x"}, []string{"anthropic ANTHROPIC_API_KEY", "groq GROQ_API_KEY"}, nil},
		"the variable that the SDKs prefer": {map[string]string{"GEMINI_API_KEY": "x", "GOOGLE_API_KEY": "y"}, []string{"gemini GOOGLE_API_KEY"}, nil},
		"a scoped key": {map[string]string{"OPENAI_API_KEY": scoped, "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}, nil,
			[]string{"OPENAI_API_KEY holds a scoped key"}},
		"a scoped key beside a real one": {map[string]string{"GOOGLE_API_KEY": "sk-" + scoped, "GEMINI_API_KEY": "x"}, []string{"gemini GEMINI_API_KEY"},
			[]string{"GOOGLE_API_KEY holds a scoped key"}},
		"a key for another place": {map[string]string{"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "https://user:pw@openrouter.ai/api/v1"}, []string{"openai OPENAI_API_KEY"},
			[]string{"OPENAI_BASE_URL points to openrouter.ai, but OPENAI_API_KEY is sent to api.openai.com"}},
		"a key for its own place":   {map[string]string{"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "https://API.openai.com/v1"}, []string{"openai OPENAI_API_KEY"}, nil},
		"another vendor's variable": {map[string]string{"FIREWORKS_API_KEY": "x", "OPENAI_BASE_URL": "https://api.openai.com/v1"}, []string{"fireworks FIREWORKS_API_KEY"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, notes := foundUpstreams(getenv(test.env))
			var got []string
			for _, u := range list {
				got = append(got, u.Name+" "+u.Variable)
			}
			if !slices.Equal(got, test.found) {
				t.Errorf("found %q, want %q", got, test.found)
			}
			if len(notes) != len(test.notes) {
				t.Fatalf("notes are %q, want %q", notes, test.notes)
			}
			for i, note := range notes {
				if !strings.HasPrefix(note, test.notes[i]) || strings.Contains(note, scoped) || strings.Contains(note, "pw") {
					t.Errorf("note %q, want %q and no secret", note, test.notes[i])
				}
			}
		})
	}
}

func TestUpConfig(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	for name, test := range map[string]struct {
		o              upOptions
		dir, listen    string
		upstreams      []upUpstream
		holds, without []string
	}{
		"with nothing found, an offline upstream": {
			upOptions{}, "/data/caddy/till", "127.0.0.1:8080", nil,
			[]string{"admin unix//data/caddy/till/admin.sock|0600\n", "persist_config off\n", "store badger /data/caddy/till\n",
				"seal_key_file /data/caddy/till/seal.key\n", "public_url http://127.0.0.1:8080\n",
				"upstream echo openai {\n\t\t\tto unix//data/caddy/till/echo.sock\n\t\t\tcredential {env.TILL_ECHO_CREDENTIAL}\n",
				"http://:8080 {\n\tbind 127.0.0.1\n\ttill\n}", "bind unix//data/caddy/till/echo.sock|0600\n\ttill_echo\n", "level WARN\n", "request>headers>Sec-Websocket-Protocol delete\n"},
			[]string{"storage file_system", "level INFO"},
		},
		"with providers, and the credential a placeholder": {
			upOptions{verbose: true, publicURL: "https://agents.example.com"}, "/srv/till", "[::]:9000",
			[]upUpstream{{Name: "openai", Preset: "openai", Variable: "OPENAI_API_KEY"}},
			[]string{"upstream openai openai {\n\t\t\tcredential {env.OPENAI_API_KEY}\n", "public_url https://agents.example.com\n",
				"http://:9000 {\n\tbind ::\n", "request>headers>Sec-Websocket-Protocol delete\n", "storage file_system /srv/till/caddy\n", "level INFO\n"},
			[]string{"echo", "level WARN"},
		},
		"with a dashboard": {
			upOptions{console: "127.0.0.1:8081"}, "/srv/till", "127.0.0.1:8080", nil,
			[]string{"console_url http://127.0.0.1:8081\n", "http://:8081 {\n\tbind 127.0.0.1\n\ttill_console\n}"}, nil,
		},
		"on all interfaces": {
			upOptions{}, "/srv/till", ":9000", nil,
			[]string{"bind 0.0.0.0\n", "public_url http://localhost:9000\n"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := test.o.config(test.dir, test.listen, test.o.console, test.upstreams)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range test.holds {
				if !strings.Contains(text, part) {
					t.Errorf("%q is missing in\n%s", part, text)
				}
			}
			for _, part := range test.without {
				if strings.Contains(text, part) {
					t.Errorf("%q stands in\n%s", part, text)
				}
			}
		})
	}
}

func TestUpConfigRefuses(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("x", maxSocketPath)
	for name, test := range map[string]struct{ dir, listen, public, message, console string }{
		"no port":                          {"/d", "127.0.0.1", "", "--listen must be host:port", ""},
		"a host with a brace":              {"/d", "{env.X}:80", "", "--listen must be host:port", ""},
		"a directory with a space":         {"/my data", "127.0.0.1:80", "", "--data", ""},
		"a directory with a bar":           {"/my|data", "127.0.0.1:80", "", "--data", ""},
		"a directory with a placeholder":   {"/{env.X}", "127.0.0.1:80", "", "--data", ""},
		"a path too long for a socket":     {long, "127.0.0.1:80", "", "name a shorter directory with --data", ""},
		"a public address without a host":  {"/d", "127.0.0.1:80", "agents.example.com", "--public-url", ""},
		"a public address with a new line": {"/d", "127.0.0.1:80", "http://x/\n\tupstream", "--public-url", ""},
		"a dashboard beyond this machine":  {"/d", "127.0.0.1:80", "", "--console must be a loopback address of this machine", "0.0.0.0:8081"},
		"a dashboard without a port":       {"/d", "127.0.0.1:80", "", "--console", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := upOptions{publicURL: test.public}
			_, err := o.config(test.dir, test.listen, test.console, nil)
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v, want %q", err, test.message)
			}
		})
	}
}

func TestTheGreetingFits(t *testing.T) {
	t.Parallel()
	var all []wire.UpstreamInfo
	for _, p := range []string{"openai", "anthropic", "gemini", "openrouter", "mistral", "groq", "together", "fireworks", "perplexity", "deepseek"} {
		all = append(all, wire.UpstreamInfo{Name: p, Preset: p})
	}
	g := &greeting{BaseURL: "http://127.0.0.1:8080", Data: filepath.Join("/srv", "a-directory-with-a-long-name", "till"), Upstreams: all,
		Key:   &wire.Minted{KeyObject: &wire.KeyObject{Upstream: "gemini", MaxActivations: count(5)}, ScopedKey: "till_sk_2U2MJFLgRfT6CEV1PUVmmF453Jg2"},
		Notes: []string{strings.Repeat("words ", 40)}}
	for _, key := range []*wire.Minted{g.Key, nil} {
		g.Key = key
		var b strings.Builder
		if err := g.print(&b, false); err != nil {
			t.Fatal(err)
		}
		text := b.String()
		for line := range strings.Lines(text) {
			if !strings.Contains(line, program()) { // a single word, which is as long as its path
				fits(t, line)
			}
		}
		if (key != nil) != strings.Contains(text, "till_sk_") {
			t.Errorf("the greeting is\n%s", text)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r > 0x7e }) {
			t.Errorf("the greeting is not plain:\n%s", text)
		}
	}
}
