package till

import (
	"strings"
	"testing"

	"github.com/till-proxy/till/token"
)

func TestBothEndsOfACredentialAreFoundAroundAMask(t *testing.T) {
	t.Parallel()
	c := newCredential(token.NewSecret("xai-0123456789abcdefxQ7z"))
	for text, want := range map[string]bool{
		"Incorrect API key provided: xa***7z. You can obtain one": true,
		`{"error":"key xai-01…xQ7z"}`:                             true,
		`{"error":"key xai-\u2026Q7z"}`:                           true,
		"xai-0...7z":                                              true,
		"xai-XXXXXXXX7z":                                          true,
		"xai-••••••7z":                                            true,
		"key: ****xQ7z":                                           true,
		"a***b, and xa**7z":                                       true,
		"Incorrect API key provided: gs***tF.":                    false, // another's
		"xa***":                                                   false, // every key begins so
		"***7z":                                                   false,
		"xa*7z":                                                   false, // one star is multiplied
		"xa***7y":                                                 false,
		"z***xa":                                                  false,
		"":                                                        false,
	} {
		if got := c.shownMasked([]byte(text)); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
	if c.shownMasked([]byte(strings.Repeat("xa**", maxErrorBody/4))) {
		t.Error("found in many masks")
	}
	if newCredential(token.NewSecret("ollama")).shownMasked([]byte("ol***ma")) {
		t.Error("what is no secret is looked for")
	}
}
