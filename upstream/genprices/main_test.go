package main

import "testing"

// TestAPriceForATimeSaysWhatFollows: a promotional price that is kept for too long is
// less than the vendor bills, and one that nothing follows makes its model unknown.
func TestAPriceForATimeSaysWhatFollows(t *testing.T) {
	t.Parallel()
	type row = map[string]any
	first := row{"provider": "p", "id": "m", "until": "2026-12-31"}
	for name, test := range map[string]struct {
		rows []map[string]any
		good bool
	}{
		"no end":                {[]map[string]any{{"provider": "p", "id": "m"}}, true},
		"nothing follows":       {[]map[string]any{first}, false},
		"the next day":          {[]map[string]any{first, {"provider": "p", "id": "m", "from": "2027-01-01"}}, true},
		"a day is left out":     {[]map[string]any{first, {"provider": "p", "id": "m", "from": "2027-01-02"}}, false},
		"another model":         {[]map[string]any{first, {"provider": "p", "id": "n", "from": "2027-01-01"}}, false},
		"that one ends as well": {[]map[string]any{first, {"provider": "p", "id": "m", "from": "2027-01-01", "until": "2027-01-31"}}, false},
		"no date":               {[]map[string]any{{"provider": "p", "id": "m", "until": "soon"}}, false},
	} {
		if err := endless(test.rows); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for notes, good := range map[string]bool{
		"promotional price; expect a rise": false, "Introductory rate": false, "launch price": false, "limited-time offer": false, "limited time offer": false,
		"moving alias": true, "one search unit = 1 query": true, "<nil>": true,
	} {
		if err := dated(row{"provider": "p", "id": "m"}, notes); (err == nil) != good {
			t.Errorf("%q without a date: %v", notes, err)
		}
		if err := dated(first, notes); err != nil {
			t.Errorf("%q with a date: %v", notes, err)
		}
	}
	if err := stillNeeded("2026-11-30"); err != nil {
		t.Error(err)
	}
	if stillNeeded("2026-12-01") == nil {
		t.Error("a correction stands beside figures that are newer than it")
	}
}
