package wire

import (
	"fmt"
	"net/url"

	"github.com/till-proxy/till/token"
)

// CheckAddress refuses a text that is not an address of a server for people and
// clients. They are shown the address, so it must hold no password.
func CheckAddress(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("must be an http or https address such as https://agents.example.com, got %q", token.ScrubAddress(text))
	case u.User != nil:
		return fmt.Errorf("must hold no user and no password, because others are shown it: write %s://%s", u.Scheme, u.Host)
	}
	return nil
}
