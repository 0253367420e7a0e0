package limiter_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/till-proxy/till/limiter"
)

// TestEveryTextOfAFilterHasARowThatPicks: a row that is set and not compared would
// pick every key, and revoke it.
func TestEveryTextOfAFilterHasARowThatPicks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(5))
	set := make(map[string]bool)
	for _, field := range limiter.FilterFields {
		var f limiter.Filter
		if field.Doc == "" {
			t.Errorf("%s is not described", field.Name)
		}
		if !f.Set(field.Name, "nothing like it") {
			continue
		}
		v := reflect.ValueOf(f)
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				set[v.Type().Field(i).Name] = true
			}
		}
		if field.Orders {
			continue
		}
		if view := k.view(); f.Picks(&view, w.clock.time()) {
			t.Errorf("%s: a key that is not like it is picked", field.Name)
		}
		if _, err := w.RevokeMany(limiter.Operator, f, false, ""); err != nil && field.Name != "status" {
			t.Errorf("%s: as if every key were meant: %v", field.Name, err)
		}
	}
	filters := reflect.TypeFor[limiter.Filter]()
	for i := range filters.NumField() {
		if f := filters.Field(i); f.Type.Kind() == reflect.String && !set[f.Name] {
			t.Errorf("%s of filters has no row in FilterFields", f.Name)
		}
	}
	if got, want := limiter.BulkNames(), "status, upstream, role, owner, created_by, parent, name, label.NAME, unused_for, created_before, q"; got != want {
		t.Errorf("many keys are revoked by %s, want %s", got, want)
	}
}

// TestAJobsRecordHasItsWholeFilter: after a restart the job goes on with what its
// record says, also if upstreams have other credentials by then.
func TestAJobsRecordHasItsWholeFilter(t *testing.T) {
	t.Parallel()
	j := limiter.Job{Filter: limiter.Filter{Within: new(limiter.Within)}}
	fill(reflect.ValueOf(j.Filter.Within).Elem(), 1)
	v := reflect.ValueOf(&j.Filter).Elem()
	for i := range v.NumField() {
		switch v.Type().Field(i).Name {
		case "Within":
		case "Thorough": // each step of a job sets it
		default:
			fill(v.Field(i), 1)
		}
	}
	record, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	var read limiter.Job
	if err := json.Unmarshal(record, &read); err != nil || !reflect.DeepEqual(read, j) {
		t.Errorf("read %+v, %v; want %+v", read.Filter, err, j.Filter)
	}
}
