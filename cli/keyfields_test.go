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
		if name == "" { // embedded
			continue
		}
		limits, cmd := new(limitFlags), new(cobra.Command)
		limits.addUpstream()
		limits.add(cmd)
		flag := cmd.Flags().Lookup(strings.ReplaceAll(name, "_", "-"))
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

// TestFlagsWithTwoNamesAreOne: what is given by both is added up, or is the server's to
// refuse.
func TestFlagsWithTwoNamesAreOne(t *testing.T) {
	t.Parallel()
	limits, cmd := new(limitFlags), new(cobra.Command)
	limits.addUpstream()
	limits.add(cmd)
	if err := cmd.ParseFlags(strings.Fields("--label a=1 --labels b=2 --label c=3 --upstream x --provider y")); err != nil {
		t.Fatal(err)
	}
	body, err := limits.fields(strings.NewReader(""))
	want := map[string]any{"labels": map[string]string{"a": "1", "b": "2", "c": "3"}, "upstream": "x", "provider": "y"}
	if err != nil || !reflect.DeepEqual(body, want) {
		t.Errorf("the body is %v, %v, want %v", body, err, want)
	}
	run := runCommand(new(globalFlags))
	if err := run.ParseFlags(strings.Fields("--upstream x --provider y --upstream z")); err != nil {
		t.Fatal(err)
	}
	if got, err := run.Flags().GetStringSlice("upstream"); err != nil || strings.Join(got, " ") != "x y z" {
		t.Errorf("run is for %q, %v", got, err)
	}
	if help := cmd.Flags().FlagUsages() + run.Flags().FlagUsages(); strings.Contains(help, "--labels") || strings.Contains(help, "--provider") {
		t.Errorf("the help lists both names:\n%s", help)
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
