package record

import "testing"

func TestWhatWasCarvedIsOfTheWindowOfItsLineage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		key    Key
		parent Account
		want   bool
	}{
		"the same window":                      {Key{CarvedIn: 7, CarvedLineage: 2}, Account{Epoch: 7, Lineage: 2}, true},
		"the same window, that ends otherwise": {Key{CarvedIn: 7, CarvedLineage: 2}, Account{Epoch: 9, Lineage: 2}, true},
		"another window of the same moment":    {Key{CarvedIn: 7, CarvedLineage: 2}, Account{Epoch: 7, Lineage: 3}, false},
		"of an earlier version":                {Key{CarvedIn: 7}, Account{Epoch: 7, Lineage: 2}, true},
		"of an earlier version and window":     {Key{CarvedIn: 7}, Account{Epoch: 9, Lineage: 2}, false},
	} {
		if got := test.key.CarvedFrom(&test.parent); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
