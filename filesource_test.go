package till

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

// fileApp is a configuration with one source of each kind, in files below a directory.
type fileApp struct {
	*App
	t   *testing.T
	dir string
}

const (
	firstHook = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	nextHook  = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

// priced is a file of prices with one model.
func priced(input int) string {
	return fmt.Sprintf(`{"schema":"till.prices/1","models":[{"provider":"openai","id":"mine","input":%d,"output":9}]}`, input)
}

func newFileApp(t *testing.T) *fileApp {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"key": "sk-first-0123456789\n", "seal": strings.Repeat("5e", 32) + "\n", "hook": firstHook + "\n", "prices": priced(1),
	} {
		file(t, filepath.Join(dir, name), text, 0o600)
	}
	app, err := configured(t, strings.ReplaceAll(`{
	storage file_system DIR/caddy
	till {
		store badger DIR/store
		seal_key {file.DIR/seal}
		prices DIR/prices
		price openai/other 7 8
		webhook https://ops.example.com/till {
			secret {file.DIR/hook}
		}
		upstream openai {
			credential {file.DIR/key}
		}
	}
}
`, "DIR", dir))
	if err != nil {
		t.Fatal(err)
	}
	return &fileApp{app, t, dir}
}

func (a *fileApp) path(name string) string { return filepath.Join(a.dir, name) }

// check does what the app does once a second.
func (a *fileApp) check() {
	for _, s := range a.sources {
		s.check(a.t.Context(), zap.NewNop())
	}
}

// now returns what is in force, by the name of the file that it comes from.
func (a *fileApp) now() map[string]string {
	a.t.Helper()
	price, ok := a.PriceTable().Find("openai", "mine", time.Now())
	if !ok {
		a.t.Fatal("the price is gone")
	}
	ids, err := a.SealKeyIDs()
	if err != nil {
		a.t.Fatal(err)
	}
	return map[string]string{
		"key": a.targets["openai"].held.Load().secret.Reveal(), "hook": a.hooks[0].Secrets()[0].Reveal(),
		"prices": fmt.Sprint(price.Input), "seal": fmt.Sprint(ids),
	}
}

// state returns what is reported about a file.
func (a *fileApp) state(name string) wire.File {
	a.t.Helper()
	all := a.Files()
	i := slices.IndexFunc(all, func(f wire.File) bool { return f.Paths[0] == a.path(name) })
	if i < 0 {
		a.t.Fatalf("%s is not among %+v", name, all)
	}
	return all[i]
}

// nextOf is what may be in each file afterwards, and what is then in force. The seal
// keys keep the first: what it sealed must open.
var nextOf = map[string][2]string{
	"key":    {"sk-next-9876543210\n", "sk-next-9876543210"},
	"hook":   {nextHook + "\n", "fedcba9876543210fedcba9876543210"},
	"prices": {priced(3), "3000000"},
	"seal":   {strings.Repeat("a1", 32), ""},
}

// methods are the ways in which files change.
var methods = map[string]func(t *testing.T, path, text string){
	"written over": func(t *testing.T, path, text string) { file(t, path, text, 0o600) },
	"moved into place": func(t *testing.T, path, text string) {
		file(t, path+".new", text, 0o600)
		rename(t, path+".new", path)
	},
	"moved away, and written again": func(t *testing.T, path, text string) {
		rename(t, path, path+"~")
		file(t, path, text, 0o600)
	},
	"a link that is turned": func(t *testing.T, path, text string) {
		file(t, path+".2", text, 0o600)
		symlink(t, path+".2", path)
	},
	"a link to a directory that is switched": func(t *testing.T, path, text string) { // as Kubernetes does
		dir, name := filepath.Dir(path), filepath.Base(path)
		for version, held := range []string{read1(t, path), text} {
			at := filepath.Join(dir, fmt.Sprintf("..%s.%d", name, version))
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
			file(t, filepath.Join(at, name), held, 0o600)
			symlink(t, at, filepath.Join(dir, "..data-"+name))
			symlink(t, filepath.Join("..data-"+name, name), path)
		}
	},
	"with the dates of before": func(t *testing.T, path, text string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		file(t, path, text, 0o600)
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	},
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at+".link"); err != nil {
		t.Fatal(err)
	}
	rename(t, at+".link", at)
}

func read1(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAChangedFileIsInForceWithoutAReload(t *testing.T) {
	for method, change := range methods {
		for name, next := range nextOf {
			if name == "seal" { // its first key must stay; see below
				continue
			}
			t.Run(method+", "+name, func(t *testing.T) {
				a := newFileApp(t)
				a.check()
				before := a.now()
				change(t, a.path(name), next[0])
				a.check()
				if now := a.now()[name]; now != before[name] {
					t.Errorf("taken at the first look, where it may be half written: %s", now)
				}
				a.check()
				want := before
				want[name] = next[1]
				if now := a.now(); fmt.Sprint(now) != fmt.Sprint(want) {
					t.Errorf("in force are %v, want %v", now, want)
				}
				if f := a.state(name); f.ChangedAt == nil || f.Trouble != "" || f.ReadAt.IsZero() {
					t.Errorf("reported: %+v", f)
				}
				if p, ok := a.PriceTable().Find("openai", "other", time.Now()); !ok || p.Input != 7_000_000 {
					t.Error("the price line of the configuration was lost")
				}
			})
		}
	}
}

func TestAFileThatIsNotWholeLeavesWhatWasInForce(t *testing.T) {
	removed := func(t *testing.T, path string) { rename(t, path, path+".gone") }
	holds := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) { file(t, path, text, 0o600) }
	}
	for what, test := range map[string]struct {
		spoil func(*testing.T, string)
		only  string // one kind; "" for all
		says  string
	}{
		"removed":                {removed, "", "no such file"},
		"empty":                  {holds(""), "", ""},
		"a line end":             {holds("\n"), "", ""},
		"a directory":            {func(t *testing.T, path string) { removed(t, path); mkdir(t, path) }, "", "is a directory"},
		"a link to nothing":      {func(t *testing.T, path string) { removed(t, path); symlink(t, path+".nothing", path) }, "", "no such file"},
		"a link to itself":       {func(t *testing.T, path string) { removed(t, path); symlink(t, path, path) }, "", "too many"},
		"of another kind":        {holds(`{"a":"sekret-text"`), "prices", "prices"},
		"half of the prices":     {holds(priced(3)[:40]), "prices", "prices"},
		"half a seal key":        {holds(strings.Repeat("a1", 20)), "seal", "32 bytes"},
		"half a webhook secret":  {holds(nextHook[:21]), "hook", "base64"},
		"too long a key":         {holds(strings.Repeat("a", maxSecretFile+1)), "key", "longer"},
		"a credential's mark":    {holds("\ufeffsekret-text"), "key", "byte order mark"},
		"a webhook's mark":       {holds("\ufeffsekret-text"), "hook", "byte order mark"},
		"a variable":             {holds("OPENAI_API_KEY=sekret-text"), "key", "NAME=value"},
		"Bearer":                 {holds("Bearer sekret-text"), "key", "Bearer"},
		"quotes":                 {holds(`"sekret-text"`), "key", "quotes"},
		"a scoped key":           {holds("till_sk_sekret-text"), "key", "scoped key"},
		"two lines":              {holds("sekret-text\nsekret-text"), "key", "one line"},
		"another seal key alone": {holds(strings.Repeat("a1", 32)), "seal", "is gone"},
	} {
		for _, name := range []string{"key", "hook", "prices", "seal"} {
			if test.only != "" && test.only != name {
				continue
			}
			t.Run(what+", "+name, func(t *testing.T) {
				a := newFileApp(t)
				before, path, text := a.now(), a.path(name), read1(t, a.path(name))
				test.spoil(t, path)
				for range 3 {
					a.check()
				}
				if now := a.now(); fmt.Sprint(now) != fmt.Sprint(before) {
					t.Errorf("in force are %v, want %v", now, before)
				}
				f := a.state(name)
				if f.Trouble == "" || !strings.Contains(f.Trouble, test.says) || strings.Contains(f.Trouble, "sekret") {
					t.Errorf("reported: %+v, want %q", f, test.says)
				}
				found := a.Diagnose()
				if i := slices.IndexFunc(found, func(f wire.Finding) bool { return f.Check == "file_not_taken" }); i < 0 || !strings.Contains(found[i].What, f.What) {
					t.Errorf("doctor finds %+v", found)
				}
				restored := func() {
					t.Helper()
					if err := os.RemoveAll(path); err != nil {
						t.Fatal(err)
					}
					file(t, path, text, 0o600)
					a.check()
					if f := a.state(name); f.Trouble != "" || f.ChangedAt != nil {
						t.Errorf("when it is back: %+v", f)
					}
				}
				restored()
				test.spoil(t, path)
				a.check()
				a.check()
				if f := a.state(name); f.Trouble == "" {
					t.Error("the second time nothing is reported")
				}
				restored()
				if name == "seal" {
					return
				}
				file(t, path, nextOf[name][0], 0o600)
				a.check()
				a.check()
				if now := a.now()[name]; now != nextOf[name][1] {
					t.Errorf("after what is sound: %s", now)
				}
			})
		}
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsBeingWrittenIsNotTaken: the writer is slower than the checks, but never
// pauses for as long as the time between two of them.
func TestWhatIsBeingWrittenIsNotTaken(t *testing.T) {
	a := newFileApp(t)
	before := a.now()["key"]
	const next = "sk-next-9876543210"
	for n := range next {
		file(t, a.path("key"), next[:n+1], 0o600)
		a.check()
		if now := a.now()["key"]; now != before {
			t.Fatalf("in force is %q", now)
		}
	}
	a.check()
	if now := a.now()["key"]; now != next {
		t.Errorf("in force is %q", now)
	}
}

// TestAPipeIsReadOnce: reading it again would wait for another writer.
func TestAPipeIsReadOnce(t *testing.T) {
	a := newFileApp(t)
	s := &fileSource{what: "x", paths: []string{os.DevNull}, maxSize: 10}
	s.apply = func(context.Context, contents) (bool, error) { return true, nil }
	n := len(a.sources)
	if err := a.addSource(s); err != nil || len(a.sources) != n {
		t.Errorf("%v; it is looked at", err)
	}
}

// TestAnAnswerIsSearchedForBothCredentialsAfterARotation: both of requests in flight
// with the previous one, and of those that begin with the new one.
func TestAnAnswerIsSearchedForBothCredentialsAfterARotation(t *testing.T) {
	t.Parallel()
	to := new(target)
	to.setHeld(token.NewSecret("sk-first-0123456789"))
	running := to.held.Load()
	if to.setHeld(token.NewSecret("sk-first-0123456789")) {
		t.Error("the same is called a change")
	}
	if !to.setHeld(token.NewSecret("sk-next-9876543210")) {
		t.Error("another is called none")
	}
	for name, c := range map[string]*credential{"running": running, "new": to.held.Load()} {
		for _, text := range []string{"sk-first-0123456789", "sk-next-9876543210", `sk-next\u002d9876543210`} {
			if !c.shownIn("x" + text + "x") {
				t.Errorf("%s: %s is not found", name, text)
			}
		}
	}
	if running.secret.Reveal() != "sk-first-0123456789" {
		t.Error("what runs changed its credential")
	}
}
