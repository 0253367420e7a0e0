package admin

import (
	"encoding/json"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
)

// TestTheDescriptionOfTheAPIIsAsItWas holds what generated clients are made from.
func TestTheDescriptionOfTheAPIIsAsItWas(t *testing.T) {
	t.Parallel()
	text, err := json.MarshalIndent(openAPI(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	admintest.Golden(t, "openapi.json", append(text, '\n'))
}
