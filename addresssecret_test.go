package till

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestNoAddressOfTheConfigurationHoldsASecret: addresses are printed with keys, logged and
// shown to callers, so one that holds a password is refused, in words that do not repeat it.
func TestNoAddressOfTheConfigurationHoldsASecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2tiger"
	addresses := []string{
		"https://ann:" + secret + "@agents.example.com", "https://" + secret + "@agents.example.com/x", "http://ann:" + secret + "%zz@127.0.0.1:9",
		"https://agents.example.com/?key=" + secret, "https://agents.example.com/#" + secret,
		"https://ann:" + secret + "/4?5#6@agents.example.com", "https:/ann:" + secret + "@agents.example.com", "ann:" + secret + "@agents.example.com",
	}
	options := map[string]string{
		"public_url":  `"public_url":%s,"upstreams":{"mock":{"preset":"openai"}}`,
		"console_url": `"console_url":%s,"upstreams":{"mock":{"preset":"openai"}}`,
		"to":          `"upstreams":{"mock":{"preset":"openai","to":[%s]}}`,
		"cors":        `"upstreams":{"mock":{"preset":"openai","cors":[%s]}}`,
		"redirects":   `"upstreams":{"mock":{"preset":"openai","redirects_pass":[%s]}}`,
		"preset":      `"upstreams":{"mock":{"preset":%s}}`,
	}
	for option, config := range options {
		for _, address := range addresses {
			text, err := json.Marshal(address)
			if err != nil {
				t.Fatal(err)
			}
			err = validates(t, fmt.Sprintf(`{"apps":{"till":{`+config+`}}}`, text))
			switch {
			case err == nil:
				t.Errorf("%s %s: it is taken", option, address)
			case strings.Contains(err.Error(), secret):
				t.Errorf("%s: the error repeats it: %v", option, err)
			}
		}
	}
	for _, address := range addresses {
		line := "{\n\ttill {\n\t\tupstream mock openai " + address + "\n\t}\n}\n:80 {\n\ttill\n}\n"
		if got := adapt(t, line); strings.Contains(got, secret) {
			t.Errorf("the Caddyfile's error repeats it: %s", got)
		}
	}
}
