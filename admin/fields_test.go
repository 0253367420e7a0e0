package admin

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func jsonNames(t reflect.Type) map[string]bool {
	names := make(map[string]bool)
	for _, f := range fieldsOf(t) {
		names[f.name] = true
	}
	return names
}

// TestEveryFieldOfAKeyIsReadAndShown compares the table of fields with the requests
// that set them and the object that shows them.
func TestEveryFieldOfAKeyIsReadAndShown(t *testing.T) {
	t.Parallel()
	mint, change, shown := jsonNames(reflect.TypeFor[wire.MintBody]()), jsonNames(reflect.TypeFor[wire.ChangeBody]()), jsonNames(reflect.TypeFor[wire.KeyObject]())
	mint["custody"] = mint["upstream_key"] // it decides the custody
	for _, f := range record.KeyFields {
		if f.Choice != record.Noted && (!mint[f.Name] || !shown[f.Name]) {
			t.Errorf("%s: a mint takes it: %t, the key object shows it: %t", f.Name, mint[f.Name], shown[f.Name])
		}
		if f.Name != "" && change[f.Name] != (f.Choice >= record.WhileAlive) {
			t.Errorf("%s: a change takes it: %t", f.Name, change[f.Name])
		}
	}
	for name := range jsonNames(reflect.TypeFor[wire.Settable]()) {
		if record.FieldNamed(cmp.Or(otherNames[name], name)) == nil {
			t.Errorf("%s is no field of keys", name)
		}
	}
}

// TestAPatchOfAFieldChangesThatAlone also checks that null removes the field if it
// can be removed.
func TestAPatchOfAFieldChangesThatAlone(t *testing.T) {
	t.Parallel()
	w := newYieldWorld(t, map[string]record.Role{})
	samples := maps.Clone(widening)
	for _, name := range neutral {
		samples[name] = fmt.Sprintf(`{%q:"x"}`, name)
	}
	samples["fit"], samples["labels"], samples["metadata"] = `{"fit":false}`, `{"labels":{"a":"b"}}`, `{"metadata":{"a":"b"}}`
	for name := range jsonNames(reflect.TypeFor[wire.Settable]()) {
		field := record.FieldNamed(cmp.Or(otherNames[name], name))
		mint := wideKey
		if field.Name == "max_spend_usd" {
			mint = strings.Replace(mint, `"max_request_spend_usd":"1",`, "", 1) // this field needs it
		}
		id := w.NewKey(mint).ID
		facts := func() map[string]any {
			v, err := w.Get(limiter.Operator, id)
			if err != nil {
				t.Fatal(err)
			}
			facts := make(map[string]any)
			for _, f := range record.KeyFields {
				if f.Name != "" {
					facts[f.Name] = f.Fact(&v.Key)
				}
			}
			return facts
		}
		shown := func() any { return admintest.Get[map[string]any](t, w.Do("GET", "/keys/"+id, ""))[field.Name] }
		before, showed := facts(), shown()
		if a := w.Do("PATCH", "/keys/"+id, samples[name]); a.Status != http.StatusOK {
			t.Errorf("%s: %d %s", samples[name], a.Status, a.Body)
			continue
		}
		after := facts()
		if now := shown(); reflect.DeepEqual(now, showed) {
			t.Errorf("%s: the key object shows %v before and after", samples[name], now)
		}
		for other := range before {
			if changed := !reflect.DeepEqual(before[other], after[other]); changed != (other == field.Name) {
				t.Errorf("%s: %s changed: %t, from %v to %v", samples[name], other, changed, before[other], after[other])
			}
		}
		a := w.Do("PATCH", "/keys/"+id, fmt.Sprintf(`{%q:null}`, name))
		if (a.Status == http.StatusOK) != field.Clearable() {
			t.Errorf("%s: null answers %d %s", name, a.Status, a.Body)
		}
		if now := facts()[field.Name]; field.Clearable() && now != nil && now != string(record.ChargeForwarded) {
			t.Errorf("%s was taken away, and is %v", name, now)
		}
	}
}
