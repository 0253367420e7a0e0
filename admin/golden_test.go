package admin

import (
	"encoding/json"
	"testing"
)

// TestTheDescriptionOfTheAPIIsAsItWas holds what generated clients are made from.
func TestTheDescriptionOfTheAPIIsAsItWas(t *testing.T) {
	t.Parallel()
	text, err := json.MarshalIndent(openAPI(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "openapi.json", append(text, '\n'))
}
