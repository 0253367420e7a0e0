package cli

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// byName lists the commands that take a key's name, each with its other arguments.
var byName = map[string]string{
	"show": "show NAME", "suspend": "suspend NAME", "resume": "resume NAME", "revoke": "revoke NAME",
	"rotate": "rotate NAME", "grant": "grant NAME --activations 5", "update": "update NAME --owner ops",
	"forget": "forget NAME", "env": "env NAME",
}

// TestEveryCommandThatTakesAKeyIsInTheTable fails for a new command that is not in
// byName.
func TestEveryCommandThatTakesAKeyIsInTheTable(t *testing.T) {
	t.Parallel()
	var all []string
	for path, cmd := range tree() {
		if _, use, ok := strings.Cut(cmd.Use, " "); ok && strings.HasPrefix(use, "KEY") {
			all = append(all, path)
		}
	}
	slices.Sort(all)
	if want := slices.Sorted(maps.Keys(byName)); !slices.Equal(all, want) {
		t.Errorf("commands with a KEY are %v, in the table %v", all, want)
	}
}

func (w *world) on(path, name, at string) ran {
	return till(w.T, append(strings.Fields(strings.ReplaceAll(byName[path], "NAME", name)), "--address", at)...)
}

func TestAWholeNameIsFoundAmongManyThatBeginLikeIt(t *testing.T) {
	t.Parallel()
	for path := range byName {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			at := w.Serve()
			k := w.NewKey(`{"name":"backup-job","upstream":"openai","max_activations":5}`)
			for i := range 21 {
				w.NewKey(fmt.Sprintf(`{"name":"backup-job-%d","upstream":"openai","max_activations":5}`, i))
			}
			switch path {
			case "forget":
				w.Do("POST", "/keys/"+k.ID+"/revoke", "{}")
			case "resume":
				w.Do("POST", "/keys/"+k.ID+"/suspend", "{}")
			}
			if r := w.on(path, "backup-job", at); r.code != 0 || !strings.Contains(r.out+r.err, k.ID) && path != "env" {
				t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
			}
		})
	}
}

// TestADecoyEndsNoOtherKey has the holder of a key mint as many children as a page
// holds, and then one with the key's own name.
func TestADecoyEndsNoOtherKey(t *testing.T) {
	t.Parallel()
	for path := range byName {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			at := w.Serve()
			k := w.NewKey(`{"name":"agent7","upstream":"openai","max_activations":500,"delegate":true}`)
			for i := range 21 {
				w.childOf(k, fmt.Sprintf("agent7.%d", i))
			}
			decoy := w.childOf(k, "agent7")
			before := w.Do("GET", "/keys/"+decoy, "").Body + w.Do("GET", "/keys/"+k.ID, "").Body
			if path == "forget" { // and both have ended
				w.Do("POST", "/keys/"+k.ID+"/revoke", "{}")
				w.Do("POST", "/keys/"+decoy+"/revoke", "{}")
				before = w.Do("GET", "/keys/"+decoy, "").Body + w.Do("GET", "/keys/"+k.ID, "").Body
			}
			r := w.on(path, "agent7", at)
			if r.code != 1 || r.out != "" || !strings.Contains(r.err, `several keys have the name "agent7"`) {
				t.Fatalf("exit %d: %s%s", r.code, r.out, r.err)
			}
			for _, want := range []string{"\n  " + k.ID + "  ", "by operator: agent7", "\n  " + decoy + "  ", "by " + k.ID + ": agent7", " ago "} {
				if !strings.Contains(r.err, want) {
					t.Errorf("the error does not hold %q:\n%s", want, r.err)
				}
			}
			if strings.Contains(r.err, "agent7.1") {
				t.Errorf("others are listed, too:\n%s", r.err)
			}
			if after := w.Do("GET", "/keys/"+decoy, "").Body + w.Do("GET", "/keys/"+k.ID, "").Body; after != before {
				t.Errorf("something was done:\n%s\n%s", before, after)
			}
			if r := w.on(path, k.ID, at); r.code == 1 && strings.Contains(r.err, "several keys") {
				t.Errorf("by its id: exit %d: %s%s", r.code, r.out, r.err)
			}
		})
	}
}

// childOf mints a child as the key's holder would, and returns its id.
func (w *world) childOf(parent *wire.Minted, name string) string {
	w.T.Helper()
	live := w.Live(parent)
	spec := live.Key().Child()
	spec.Name, spec.Limit[record.Activations] = name, 1
	_, lookup, err := token.MintKey()
	if err != nil {
		w.T.Fatal(err)
	}
	v, err := w.Delegate(w.T.Context(), live, &limiter.Ask{Own: true}, spec, limiter.Birth{Lookup: lookup})
	if err != nil {
		w.T.Fatal(err)
	}
	return v.ID
}

func TestOfOneNameTheKeyThatLivesIsMeantAndSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	for range 21 { // such as those of a job that mints one each night
		k := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":5}`)
		w.Do("POST", "/keys/"+k.ID+"/revoke", "{}")
	}
	if r := till(t, "show", "nightly", "--address", at); r.code != 1 || !strings.Contains(r.err, "and more") || strings.Count(r.err, "\n  key_") != candidatesShown {
		t.Errorf("of keys that have all ended: exit %d: %s", r.code, r.err)
	}
	k := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":5}`)
	for range 21 {
		k := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":5}`)
		w.Do("POST", "/keys/"+k.ID+"/revoke", "{}")
	}
	said := regexp.MustCompile(`active or suspended or used up for now:\n  ` + k.ID + `  active     made \d+s ago by operator`)
	r := till(t, "suspend", "nightly", "--address", at)
	if r.code != 0 || !strings.HasPrefix(r.out, "Suspended "+k.ID) || !said.MatchString(r.err) {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	// A grant revives exhausted keys, so they are candidates, too.
	spent := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":1}`)
	w.Use(spent, 1)
	if r := till(t, "grant", "nightly", "--activations", "5", "--address", at); r.code != 1 || strings.Count(r.err, "\n  key_") != 2 || !strings.Contains(r.err, spent.ID) {
		t.Errorf("a grant: exit %d: %s%s", r.code, r.out, r.err)
	}
	if r := till(t, "revoke", "nightly", "--address", at); r.code != 0 || !strings.HasPrefix(r.out, "Revoked "+k.ID) {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}

// TestAKeyNamedLikeAnIDIsNotFoundByIt gives a key the id of a forgotten key as its
// name.
func TestAKeyNamedLikeAnIDIsNotFoundByIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	gone := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	decoy := w.NewKey(fmt.Sprintf(`{"name":%q,"upstream":"openai","max_activations":5}`, gone.ID))
	if r := till(t, "suspend", gone.ID, "--address", at); r.code != 0 || !strings.Contains(r.out, gone.ID) {
		t.Errorf("while it is there: exit %d: %s%s", r.code, r.out, r.err)
	}
	w.Do("POST", "/keys/"+gone.ID+"/revoke", "{}")
	w.Do("DELETE", "/keys/"+gone.ID, "")
	if r := till(t, "revoke", gone.ID, "--address", at); r.code != 1 || !strings.Contains(r.err, "no key has the id") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	if k := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+decoy.ID, "")); k.Status != record.Active {
		t.Errorf("the key of that name is %s", k.Status)
	}
}

// noon is a clock by which no budget renews.
type noon struct{}

func (noon) Now() (time.Time, time.Duration) {
	return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), 0
}

// TestADecoyOfAKeyThatComesBackEndsNoOtherKey has keys that are exhausted until
// their budget renews, or until a child returns something.
func TestADecoyOfAKeyThatComesBackEndsNoOtherKey(t *testing.T) {
	t.Parallel()
	w := serving(admintest.New(t, noon{}))
	at := w.Serve()
	daily := w.NewKey(`{"name":"daily","upstream":"openai","max_activations":1,"renews":"day"}`)
	w.Use(daily, 1)
	w.NewKey(`{"name":"daily","upstream":"openai","max_activations":5}`)
	agent := w.NewKey(`{"name":"agent7","upstream":"openai","max_activations":4,"delegate":true}`)
	w.childOf(agent, "agent7.1")
	w.childOf(agent, "agent7") // each child takes one activation, and so does the request that mints it
	for name, k := range map[string]*wire.Minted{"daily": daily, "agent7": agent} {
		if now := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+k.ID, "")); now.Status != record.Exhausted {
			t.Errorf("%s is %s", name, now.Status)
		}
		for _, words := range []string{"revoke " + name, "suspend " + name, "rotate " + name, "revoke --all --yes --owner nobody --except " + name} {
			r := till(t, append(strings.Fields(words), "--address", at)...)
			if r.code != 1 || !strings.Contains(r.err, fmt.Sprintf("several keys have the name %q", name)) {
				t.Errorf("%s: exit %d: %s%s", words, r.code, r.out, r.err)
			}
		}
	}
}

// TestAKeyNamedLikeTheBeginningOfAnIDIsNotFoundByIt: the beginning of an id stands
// for the key with that id, and an id in lower case for none.
func TestAKeyNamedLikeTheBeginningOfAnIDIsNotFoundByIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	k := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	short, small := k.ID[:20], "key_"+strings.ToLower(k.ID[4:])
	for _, name := range []string{short, small, "key_prod"} {
		w.NewKey(fmt.Sprintf(`{"name":%q,"upstream":"openai","max_activations":5}`, name))
	}
	for words, want := range map[string]string{
		"suspend " + short: "the beginning of other ids", "revoke " + short: "the beginning of other ids", "revoke " + small: "no key has the id",
	} {
		if r := till(t, append(strings.Fields(words), "--address", at)...); r.code != 1 || r.out != "" || !strings.Contains(r.err, want) {
			t.Errorf("%s: exit %d: %s%s", words, r.code, r.out, r.err)
		}
	}
	if r := till(t, "revoke", "key_prod", "--address", at); r.code != 0 || !strings.Contains(r.out, "(key_prod)") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}

func TestKeysAreListedByNameAndParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	k := w.NewKey(`{"name":"agent7","upstream":"openai","max_activations":500,"delegate":true}`)
	w.NewKey(`{"name":"Agent7","upstream":"openai","max_activations":5}`)
	w.NewKey(`{"name":"agent7x","upstream":"openai","max_activations":5}`)
	child := w.childOf(k, "agent7")
	other := w.childOf(k, "agent7.1")
	for flags, want := range map[string][]string{
		"--name agent7": {child, k.ID}, "--parent " + k.ID: {other, child}, "--name agent7 --parent " + k.ID: {child}, "--name agent": nil,
	} {
		r := till(t, append(strings.Fields("list --address "+at), strings.Fields(flags)...)...)
		if got := admintest.IDPattern.FindAllString(r.out, -1); r.code != 0 || !slices.Equal(got, want) {
			t.Errorf("%s: exit %d: %s%s", flags, r.code, r.out, r.err)
		}
	}
	if r := till(t, "revoke", "--all", "--parent", k.ID, "--yes", "--address", at); r.code != 0 || !strings.HasPrefix(r.out, "Revoked 2 keys") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}

// TestAFlagThatNamesAKeyIsAsStrictAsAnArgument: a flag that picks keys by another
// key must not silently pick nothing if there is no such key, and an error that
// lists candidates has one on each line.
func TestAFlagThatNamesAKeyIsAsStrictAsAnArgument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	parent := w.NewKey(`{"name":"crew","upstream":"openai","max_activations":50,"delegate":true}`)
	w.NewKey(`{"name":"other","upstream":"openai","max_activations":5}`)
	two := []*wire.Minted{w.NewKey(`{"name":"twin","upstream":"openai","max_activations":5}`), w.NewKey(`{"name":"twin","upstream":"openai","max_activations":5}`)}
	child := w.childOf(parent, "worker")
	for _, list := range []string{"crew", parent.ID} {
		if r := till(t, "list", "--parent", list, "--address", at); !strings.Contains(r.out, child) || strings.Contains(r.out, "other") {
			t.Errorf("children of %s: %s%s", list, r.out, r.err)
		}
		if r := till(t, "revoke", "--all", "--parent", list, "--dry-run", "--address", at); !strings.HasPrefix(r.out, "1 key would be revoked.\n") {
			t.Errorf("children of %s: %s%s", list, r.out, r.err)
		}
	}
	for _, flags := range []string{"list --parent", "revoke --all --dry-run --parent", "revoke --all --dry-run --owner ann --except"} {
		for name, want := range map[string]string{"nobody": "no key has the id or name", "cre": "in full", "key_01M8": "no key has", "twin": "several keys"} {
			r := till(t, append(strings.Fields(flags), name, "--address", at)...)
			if r.code == 0 || r.out != "" || !strings.Contains(r.err, want) {
				t.Errorf("%s %s: exit %d: %s%s", flags, name, r.code, r.out, r.err)
			}
			if name == "twin" && (!strings.Contains(r.err, "\n  "+two[0].ID) || !strings.Contains(r.err, "\n  "+two[1].ID)) {
				t.Errorf("%s %s does not list both, one a line: %s", flags, name, r.err)
			}
		}
	}
}

func TestAListThatGoesOnSaysHowToSeeTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.Serve()
	for range 21 {
		w.NewKey(`{"name":"twin","upstream":"openai","max_activations":5}`)
	}
	for name, flag := range map[string]string{"twin": "--name", "twi": "--q"} {
		r := till(t, "show", name, "--address", at)
		_, command, ok := strings.Cut(r.err, "and more; see: caddy till ")
		if command, _, _ = strings.Cut(command, "\n"); !ok || !strings.Contains(command, flag) {
			t.Errorf("%s: %s", name, r.err)
			continue
		}
		if all := till(t, append(strings.Fields(strings.ReplaceAll(command, "NAME", name)), "--address", at)...); strings.Count(all.out, "key_") != 21 {
			t.Errorf("%s shows %s%s", command, all.out, all.err)
		}
	}
}
