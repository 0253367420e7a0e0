package token

import "testing"

func TestAnAddressIsShownWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://agents.example.com/x": "https://agents.example.com/x", "unix//run/a.sock": "unix//run/a.sock", "localhost:2019": "localhost:2019", "": "",
		"https://ann:hunter2@a.example": "https://…@a.example", "ann:hunter2@a.example": "…@a.example", "https:/ann:p@a.example": "…@a.example",
		"https://ann:p/w?d#@a.example/x?key=k#f": "https://…@a.example/x?…", "https://a.example#f@b": "https://…@b",
		"https://ann:hunter2%40a.example": "https://…@a.example", "ann:hunter2@a.example/https://b": "…@a.example/https://b", "a.example?key=k://b": "a.example?…", "h2c+x://a.example": "h2c+x://a.example", "://a@b": "…@b",
	} {
		if got := ScrubAddress(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
