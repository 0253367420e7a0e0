package admin

import (
	"encoding/json"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
)

// TestTheDescriptionOfTheAPIIsAsItWas guards the document from which clients are
// generated.
func TestTheDescriptionOfTheAPIIsAsItWas(t *testing.T) {
	t.Parallel()
	text, err := json.MarshalIndent(openAPI(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	admintest.Golden(t, "openapi.json", append(text, '\n'))
}
