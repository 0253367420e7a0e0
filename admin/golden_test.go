package admin

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write openapi.json and help.txt as they are now, to be read before they are committed")

// golden compares with a file in testdata, which -update writes.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	is, was := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range is {
		if i == len(was) || !bytes.Equal(is[i], was[i]) {
			t.Fatalf("%s: line %d is now\n%s\nIf that is meant, run: go test -update .", name, i+1, is[i])
		}
	}
	t.Fatalf("%s: it ends after line %d now, and not after %d", name, len(is), len(was))
}

// TestTheDescriptionOfTheAPIIsAsItWas holds what generated clients are made from.
func TestTheDescriptionOfTheAPIIsAsItWas(t *testing.T) {
	t.Parallel()
	text, err := json.MarshalIndent(openAPI(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "openapi.json", append(text, '\n'))
}
