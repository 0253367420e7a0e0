package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// TestABadCredentialOfTheServersIsNotTheClients has vendors that refuse the server's
// credential with what is not a 401, in their own words.
func TestABadCredentialOfTheServersIsNotTheClients(t *testing.T) {
	t.Parallel()
	const failed, shown = "till_upstream_auth_failed", "till_upstream_failed"
	ends := func(mask string) string { return realKey[:2] + mask + realKey[len(realKey)-2:] }
	google := func(code int, status, message, details string) string {
		return fmt.Sprintf(`{"error": {"code": %d, "message": %q, "status": %q%s}}`, code, message, status, details)
	}
	reason := func(reason string) string {
		return `, "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "` + reason + `", "domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}}]`
	}
	tests := []struct {
		upstream string
		status   int
		body     string
		refusal  string // "": it passes
	}{
		{"gemini", 400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason("API_KEY_INVALID")), failed},
		{"gemini", 400, google(400, "INVALID_ARGUMENT", "API Key not found. Please pass a valid API key.", reason("API_KEY_INVALID")), failed},
		{"gemini", 400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", ""), failed},
		{"gemini", 400, "[" + google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", "") + "\n]", failed},
		{"gemini", 403, google(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key.", ""), failed},
		{"gemini", 403, google(403, "PERMISSION_DENIED", "Permission denied: Consumer 'api_key:"+realKey+"' has been suspended.", reason("CONSUMER_SUSPENDED")), failed},
		{"gemini", 403, google(403, "PERMISSION_DENIED", "Requests to this API generativelanguage.googleapis.com are blocked.", reason("API_KEY_SERVICE_BLOCKED")), failed},
		{"gemini", 403, google(403, "PERMISSION_DENIED", "The caller does not have permission", ""), ""},
		{"gemini", 400, google(400, "INVALID_ARGUMENT", `Invalid value at 'contents[0]': "reason": "API_KEY_INVALID", "message": "API key not valid"`, ""), ""},
		{"xai", 400, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided: ` + ends("***") + `. You can obtain an API key from https://console.x.ai."}`, failed},
		{"xai", 400, `{"code":"invalid-argument","error":"Incorrect API key provided. You can obtain an API key from https://console.x.ai."}`, failed},
		{"xai", 400, `{"code":"Client specified an invalid argument","error":"Incorrect%20API%20key%20provided:%20` + ends("***") + `."}`, failed},
		{"xai", 403, `{"code":"The caller does not have permission to execute the specified operation","error":"API key is currently blocked: Blocked due to API key leak"}`, failed},
		{"xai", 400, `{"code":"Client specified an invalid argument","error":"Model not found: \"error\":\"Incorrect API key\""}`, ""},
		// Where an API repeats what a client guesses, it must not show whether that is right.
		{"mock", 400, `{"error":{"message":"no model ` + ends("***") + `"}}`, ""},
		{"mock", 404, `{"error":{"message":"no model ` + realKey[:len(realKey)-1] + `***"}}`, ""},
		{"mock", 404, `{"error":{"message":"no model ****` + realKey[1:] + `"}}`, ""},
		{"mock", 404, `{"error":{"message":"no model sk***!!"}}`, ""},
		{"mock", 404, `{"error":{"message":"no model ` + realKey + `"}}`, shown}, // known already
		{"mock", 401, `{"error":{"message":"Incorrect API key provided: ` + ends("***") + `."}}`, failed},
	}
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		which, err := strconv.Atoi(r.URL.Query().Get("which"))
		if err != nil {
			t.Error(err)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.WriteHeader(tests[which].status)
		fmt.Fprint(w, tests[which].body)
	}))
	t.Cleanup(there.Close)
	more := ""
	for _, name := range []string{"gemini", "xai"} {
		more += "upstream " + name + " {\n\tto " + there.URL + "\n\tcredential {env.MOCK_KEY}\n}\n"
	}
	s := newServer(t, options{to: there.URL, more: more})
	keys := make(map[string]string)
	for _, name := range []string{"mock", "gemini", "xai"} {
		_, keys[name] = s.mint(object{"max_activations": 100, "upstream": name})
	}
	refused := make(map[string]int)
	for i, test := range tests {
		if test.refusal != "" {
			refused[fmt.Sprintf(`caddy_till_refusals_total{code=%q,upstream=%q}`, test.refusal, test.upstream)]++
		}
		r := s.request(t.Context(), keys[test.upstream])
		r.URL.RawQuery = fmt.Sprint("which=", i)
		res, body := s.must(r)
		if want := map[bool]int{true: test.status, false: http.StatusBadGateway}[test.refusal == ""]; res.StatusCode != want || res.Header.Get("Till-Refusal") != test.refusal {
			t.Errorf("%s, %d %s: %d %v %s", test.upstream, test.status, test.body, res.StatusCode, res.Header, body)
		}
		if test.refusal == "" && body != test.body || test.refusal != "" && strings.Contains(body, "***") {
			t.Errorf("%s, %d: %s", test.upstream, test.status, body)
		}
	}
	text := s.adminPage("/metrics")
	for name, n := range refused {
		if line := fmt.Sprint(name, " ", n); !strings.Contains(text, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
}
