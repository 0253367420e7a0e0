package till

import (
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestALoggerTakesRequestsAsCaddyDecidesIt: by the longest match of include and exclude
// (caddyserver/caddy, logging.go, loggerAllowed). With access logs, a log of a site in a
// Caddyfile has a name below http.log.access, which its logger includes.
func TestALoggerTakesRequestsAsCaddyDecidesIt(t *testing.T) {
	t.Parallel()
	type names = []string
	for _, test := range []struct {
		include, exclude names
		access, errors   bool // whether it takes requests with access logs, and without
	}{
		{nil, nil, true, true},
		{names{"http"}, nil, true, true},
		{names{"http.log"}, nil, true, true},
		{names{"http.log.error"}, nil, true, true},
		{names{"http.log.access"}, nil, true, false},
		{names{"http.log.access.log0"}, nil, true, false},
		{names{"http.log.error.log0"}, nil, true, false},
		{names{"http.log.stdlib"}, nil, false, false},
		{names{"http.log.access_logs"}, nil, false, false},
		{names{"http.handlers.till"}, nil, false, false},
		{names{"till"}, nil, false, false},
		{names{"*"}, nil, false, false},
		{nil, names{"http"}, false, false},
		{nil, names{"http.log"}, false, false},
		{nil, names{"*"}, false, false},
		{nil, names{"."}, true, true},
		{nil, names{"http.log.access"}, true, true}, // it takes errors
		{nil, names{"http.log.error"}, true, false},
		{nil, names{"http.log.access", "http.log.error"}, false, false},
		{nil, names{"http.log.access.log0"}, true, true},
		{names{"http"}, names{"http.log"}, false, false},
		{names{"http.log"}, names{"http"}, true, true},
		{names{"http", "http.log.error"}, names{"http.log"}, true, true},
		{names{"http.log.access"}, names{"http.log.access.log0"}, true, false},
		{names{"http.log.access.log0"}, names{"http.log.access"}, true, false},
	} {
		logger := reflect.ValueOf(caddy.CustomLog{BaseLog: caddy.BaseLog{}, Include: test.include, Exclude: test.exclude})
		if got := takesRequests(logger, true); got != test.access {
			t.Errorf("include %q, exclude %q, with access logs: %t", test.include, test.exclude, got)
		}
		if got := takesRequests(logger, false); got != test.errors {
			t.Errorf("include %q, exclude %q, without access logs: %t", test.include, test.exclude, got)
		}
	}
}
