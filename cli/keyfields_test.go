package cli

import (
	"cmp"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// TestEveryFieldOfAMintHasAFlag sets each flag alone, and looks for the field in the
// body that is sent.
func TestEveryFieldOfAMintHasAFlag(t *testing.T) {
	t.Parallel()
	for _, f := range reflect.VisibleFields(reflect.TypeFor[wire.MintBody]()) {
		name := f.Tag.Get("json")
		if name == "" || name == "provider" { // embedded, and another name for upstream
			continue
		}
		limits, cmd := new(limitFlags), new(cobra.Command)
		limits.String("upstream", "", "") // which create adds by itself
		limits.add(cmd)
		flag := cmd.Flags().Lookup(strings.ReplaceAll(strings.Replace(name, "labels", "label", 1), "_", "-"))
		if flag == nil {
			t.Errorf("%s has no flag", name)
			continue
		}
		value := map[string]string{"bool": map[string]string{"false": "true", "true": "false"}[flag.DefValue], "stringToString": "a=b"}[flag.Value.Type()]
		if err := cmd.Flags().Set(flag.Name, cmp.Or(value, "1")); err != nil {
			t.Fatalf("--%s: %v", flag.Name, err)
		}
		if body, err := limits.fields(strings.NewReader("")); err != nil || body[name] == nil {
			t.Errorf("with --%s the body is %v, %v", flag.Name, body, err)
		}
	}
}

// TestTheSheetShowsEveryFieldThatSomebodyChooses: each changes it.
func TestTheSheetShowsEveryFieldThatSomebodyChooses(t *testing.T) {
	t.Parallel()
	sheet := func(k *wire.KeyObject) string {
		t.Helper()
		var b strings.Builder
		if err := printSheet(&b, k, now); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	samples := map[reflect.Type]any{
		reflect.TypeFor[string]():            "5",
		reflect.TypeFor[int]():               5,
		reflect.TypeFor[bool]():              true,
		reflect.TypeFor[*bool]():             new(bool),
		reflect.TypeFor[*int64]():            count(5),
		reflect.TypeFor[*time.Time]():        at(time.Hour),
		reflect.TypeFor[[]string]():          []string{"x"},
		reflect.TypeFor[map[string]string](): map[string]string{"a": "b"},
		reflect.TypeFor[record.Charge]():     record.ChargeSuccess,
	}
	fields := make(map[string]reflect.StructField)
	for _, f := range reflect.VisibleFields(reflect.TypeFor[wire.KeyObject]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = f
	}
	for _, f := range record.KeyFields {
		if f.Choice == record.Noted {
			continue
		}
		k := &wire.KeyObject{ID: "key_x", Status: record.Active}
		before := sheet(k)
		field := reflect.ValueOf(k).Elem().FieldByIndex(fields[f.Name].Index)
		field.Set(reflect.ValueOf(samples[field.Type()]))
		if sheet(k) == before {
			t.Errorf("the sheet does not show %s", f.Name)
		}
	}
}
