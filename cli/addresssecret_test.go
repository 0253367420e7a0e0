package cli

import (
	"strings"
	"testing"
)

// TestNoAddressOfACommandRepeatsASecret: what somebody pastes into a flag may hold a
// password, and errors end up in tickets and in the logs of CI.
func TestNoAddressOfACommandRepeatsASecret(t *testing.T) {
	const secret = "hunter2tiger"
	t.Setenv("TILL_TOKEN", "")
	for _, address := range []string{
		"https://ann:" + secret + "@agents.example.com", "http://ann:" + secret + "%zz@127.0.0.1:9", "ann:" + secret + "@127.0.0.1:9",
		secret + "@127.0.0.1:9", "https://agents.example.com/?key=" + secret, "https:/ann:" + secret + "@127.0.0.1",
	} {
		for name, args := range map[string][]string{
			"--address":     {"list", "--address", address},
			"--public-url":  {"up", "--data", t.TempDir(), "--print-config", "--public-url", address},
			"--listen":      {"up", "--data", t.TempDir(), "--print-config", "--listen", address},
			"--console":     {"up", "--data", t.TempDir(), "--print-config", "--console", address},
			"--from":        {"migrate", "--from", address, "--to", "badger:" + t.TempDir()},
			"--to":          {"migrate", "--from", "badger:" + t.TempDir(), "--to", "postgres:" + address},
			"--to, no kind": {"migrate", "--from", "badger:" + t.TempDir(), "--to", address},
		} {
			got := till(t, args...)
			if got.code == 0 {
				t.Errorf("%s %s: it is taken: %s", name, address, got.out)
			}
			if strings.Contains(got.out+got.err, secret) {
				t.Errorf("%s: the error repeats it: %s%s", name, got.out, got.err)
			}
		}
		t.Setenv("TILL_ADDRESS", address)
		if got := till(t, "list"); got.code == 0 || strings.Contains(got.out+got.err, secret) {
			t.Errorf("TILL_ADDRESS: %d %s%s", got.code, got.out, got.err)
		}
	}
}
