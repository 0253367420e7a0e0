package webhook

import (
	"strings"
	"testing"
)

func TestAMessageTravelsEncryptedOrNotAtAll(t *testing.T) {
	t.Parallel()
	for address, wrong := range map[string]string{
		"https://ops.example.com/till?token=hidden": "",
		"http://localhost:8080/":                    "",
		"http://[::1]/":                             "",
		"http://127.0.0.2/":                         "",
		"http://ops.example.com/?token=hidden":      "https, or http on loopback",
		"http://192.168.0.1/":                       "https, or http on loopback",
		"https://me:hidden@ops.example.com/":        "neither a user",
		"https://ops.example.com/#hidden":           "nor a fragment",
		"ftp://ops.example.com/":                    "https://host",
		"https:///hidden":                           "https://host",
		"https://ops.example.com/\x7f":              "https://host",
	} {
		_, err := NewEndpoint(address)
		if (err == nil) != (wrong == "") || err != nil && (!strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%s: %v, want %q", address, err, wrong)
		}
	}
}

// TestAMessageHasASignatureForEachSecret. The first is the example of
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
// as other libraries sign it.
func TestAMessageHasASignatureForEachSecret(t *testing.T) {
	t.Parallel()
	var e Endpoint
	for _, bad := range []string{"", "whsec_", "whsec_not-base64"} {
		if _, err := e.SetSecrets([]string{bad}); err == nil || bad != "" && strings.Contains(err.Error(), "not-base64") {
			t.Errorf("the secret %q: %v", bad, err)
		}
	}
	secrets := []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a secret as it is written"}
	for i, want := range []bool{true, false} {
		if changed, err := e.SetSecrets(secrets); err != nil || changed != want {
			t.Errorf("setting them, time %d: %v, %v", i+1, changed, err)
		}
	}
	first, second, ok := strings.Cut(e.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`)), " ")
	if !ok || first != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" || first == second {
		t.Errorf("the signatures are %s and %s", first, second)
	}
}
