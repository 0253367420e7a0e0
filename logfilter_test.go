package till

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/logging"
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

// TestAFilterCoversEverySlotThatHasAKey, also those of single upstreams.
func TestAFilterCoversEverySlotThatHasAKey(t *testing.T) {
	t.Parallel()
	slots := keySlots{headers: []string{"Private-Token"}, parameters: []string{"api_key"}}.logged()
	query := func(actions string) logging.LogFieldFilter {
		f := new(logging.QueryFilter)
		if err := json.Unmarshal([]byte(`{"actions":`+actions+`}`), f); err != nil {
			t.Fatal(err)
		}
		return f
	}
	with := func(uri logging.LogFieldFilter, headers ...string) map[string]logging.LogFieldFilter {
		fields := map[string]logging.LogFieldFilter{"request>uri": uri}
		for _, name := range headers {
			fields["request>headers>"+name] = new(logging.DeleteFilter)
		}
		return fields
	}
	all := []string{"X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Sec-Websocket-Protocol", "Private-Token"}
	both := query(`[{"type":"delete","parameter":"key"},{"type":"delete","parameter":"api_key"}]`)
	for name, test := range map[string]struct {
		fields map[string]logging.LogFieldFilter
		want   bool
	}{
		"nothing":                      {nil, false},
		"everything":                   {with(both, all...), true},
		"all headers":                  {map[string]logging.LogFieldFilter{"request>uri": both, "request>headers": new(logging.DeleteFilter)}, true},
		"without an upstream's header": {with(both, all[:4]...), false},
		"without its parameter":        {with(query(`[{"type":"delete","parameter":"key"}]`), all...), false},
		"without key":                  {with(query(`[{"type":"hash","parameter":"api_key"}]`), all...), false},
		"no address":                   {with(new(logging.DeleteFilter), all...), true},
		"a pattern":                    {with(&logging.RegexpFilter{RawRegexp: "till_sk_[^&]*"}, all...), true},
	} {
		if got := filtersSlots(reflect.ValueOf(logging.FilterEncoder{Fields: test.fields}), slots); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
