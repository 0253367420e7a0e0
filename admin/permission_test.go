package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
)

// any is a row's permission where every admin token will do.
const anyToken limiter.Permission = ""

// calls has every route of the management API, with the permission it takes. A
// path with {id} is about one key, or one token where it says so.
var calls = map[string]struct {
	permission limiter.Permission
	body       string
}{
	"POST /keys":               {limiter.KeysCreate, `{"upstream":"openai","max_activations":1}`},
	"GET /keys":                {limiter.KeysRead, ""},
	"GET /keys/{id}":           {limiter.KeysRead, ""},
	"GET /keys/{id}/usage":     {limiter.KeysRead, ""},
	"PATCH /keys/{id}":         {limiter.KeysUpdate, `{"name":"new"}`},
	"DELETE /keys/{id}":        {limiter.KeysUpdate, ""},
	"POST /keys/{id}/grant":    {limiter.KeysUpdate, `{"activations":1}`},
	"POST /keys/{id}/suspend":  {limiter.KeysRevoke, ""},
	"POST /keys/{id}/resume":   {limiter.KeysRevoke, ""},
	"POST /keys/{id}/revoke":   {limiter.KeysRevoke, ""},
	"POST /keys/{id}/rotate":   {limiter.KeysRotate, ""},
	"POST /leaks":              {limiter.KeysRevoke, `{"text":"x"}`},
	"POST /keys/revoke":        {limiter.KeysRevoke, `{"filter":{"q":"nosuch"}}`},
	"GET /jobs":                {limiter.KeysRevoke, ""},
	"GET /jobs/{id}":           {limiter.KeysRevoke, ""},
	"GET /stale":               {limiter.KeysRead, ""},
	"POST /fingerprint":        {limiter.KeysRead, `{"upstream_key":"sk-real"}`},
	"GET /spend":               {limiter.KeysRead, ""},
	"GET /events":              {limiter.KeysRead, ""},
	"GET /audit":               {limiter.AuditRead, ""},
	"GET /audit/verify":        {limiter.AuditRead, ""},
	"GET /audit/export":        {limiter.AuditRead, ""},
	"POST /tokens":             {limiter.TokensManage, `{"name":"NEW","role":"r"}`},
	"GET /tokens":              {limiter.TokensManage, ""},
	"POST /tokens/{id}/revoke": {limiter.TokensManage, ""},

	"GET /roles":                    {anyToken, ""},
	"GET /upstreams":                {anyToken, ""},
	"GET /upstreams/{name}/clients": {anyToken, ""},
	"GET /prices":                   {anyToken, ""},
	"GET /stats":                    {anyToken, ""},
	"GET /lockdown":                 {anyToken, ""},
	"GET /openapi.json":             {anyToken, ""},
	"GET /doctor":                   {anyToken, ""},

	"POST /lockdown":     {limiter.Everything, `{"reason":"x"}`},
	"DELETE /lockdown":   {limiter.Everything, ""},
	"GET /backup":        {limiter.Everything, ""},
	"POST /store/repair": {limiter.Everything, `{"clock":true}`},
	"GET /seal":          {limiter.Everything, ""},
	"GET /webhooks":      {limiter.Everything, ""},
	"POST /seal/rotate":  {limiter.Everything, ""},
	"POST /console/link": {limiter.Everything, ""},
}

// patterns are the routes that the handler really has.
func patterns() []string {
	a := new(api)
	var all []string
	for _, r := range a.routes() {
		all = append(all, r.pattern)
	}
	for pattern := range a.ownRoutes() {
		all = append(all, pattern)
	}
	return all
}

func TestNoCallWithoutARow(t *testing.T) {
	t.Parallel()
	for _, pattern := range patterns() {
		if _, ok := calls[pattern]; !ok {
			t.Errorf("%s has no row in calls: say which permission it takes", pattern)
		}
	}
	if n := len(patterns()); n != len(calls) {
		t.Errorf("there are %d calls and %d rows", n, len(calls))
	}
}

// TestEveryPermissionOnEveryCallAndKey gives each permission alone and tries
// every call on an own key, one of the role and one of neither.
func TestEveryPermissionOnEveryCallAndKey(t *testing.T) {
	t.Parallel()
	for _, sees := range []limiter.Sight{limiter.SeesOwn, limiter.SeesRole, limiter.SeesAll} {
		for _, has := range append([]limiter.Permission{"none"}, limiter.Permissions...) {
			t.Run(fmt.Sprintf("%s sees %s", has, sees), func(t *testing.T) {
				t.Parallel()
				tryCalls(t, has, sees)
			})
		}
	}
}

func tryCalls(t *testing.T, has limiter.Permission, sees limiter.Sight) {
	w := newWorld(t)
	full := limiter.NewRole()
	full.Permissions, full.Sees = limiter.Permissions, sees
	narrow := full
	narrow.Permissions = []limiter.Permission{has}
	use := func(r limiter.Role) {
		if err := w.SetRoles(map[string]limiter.Role{"r": r}); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, call := range calls {
		use(full)
		by := w.hire("by "+pattern, "r")
		colleague := w.hire("colleague of "+pattern, "r")
		as := w.as(by.Token)
		targets := map[string]string{"own": by.ID, "role": colleague.ID}
		if !strings.Contains(pattern, "/tokens/") {
			targets = map[string]string{"": "99"}
		}
		if strings.Contains(pattern, "/keys/{id}") {
			body := `{"upstream":"openai","max_activations":5}`
			targets = map[string]string{
				"own": as.NewKey(body).ID, "role": w.as(colleague.Token).NewKey(body).ID, "foreign": w.NewKey(body).ID,
			}
		}
		use(narrow)
		for _, whose := range []string{"", "foreign", "role", "own"} { // own last: it may be the caller's token
			id, ok := targets[whose]
			if !ok {
				continue
			}
			method, path, _ := strings.Cut(pattern, " ")
			path = strings.ReplaceAll(strings.ReplaceAll(path, "{id}", id), "{name}", "openai")
			a := as.Do(method, path, strings.ReplaceAll(call.body, "NEW", "made by "+by.ID))
			hidden := whose == "foreign" && sees != limiter.SeesAll || whose == "role" && sees == limiter.SeesOwn
			var fits bool
			switch {
			case call.permission != anyToken && call.permission != has:
				fits = a.Status == http.StatusForbidden
			case hidden:
				fits = a.Status == http.StatusNotFound
			case pattern == "DELETE /keys/{id}":
				fits = a.Status == http.StatusConflict // it lives
			case pattern == "GET /audit/export" && sees != limiter.SeesAll:
				fits = a.Status == http.StatusForbidden
			case strings.HasPrefix(pattern, "GET /lockdown"), pattern == "GET /jobs/{id}", strings.HasPrefix(pattern, "POST /console"):
				fits = a.Status < 400 || a.Status == http.StatusNotFound
			default:
				fits = a.Status/100 == 2
			}
			if !fits {
				t.Errorf("%s on the %s one: %d %s", pattern, whose, a.Status, a.Body)
			}
		}
	}
}

// TestEveryCallWithoutATokenIsRefused is about the door, not the role.
func TestEveryCallWithoutATokenIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for pattern := range calls {
		method, path, _ := strings.Cut(pattern, " ")
		for _, authorization := range []string{"", "Bearer", "Bearer till_admin_x", "Basic b3BlcmF0b3I6", "Bearer *"} {
			r := httptest.NewRequest(method, path, nil)
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			rec := httptest.NewRecorder()
			w.as("").Handler.ServeHTTP(rec, r)
			if rec.Code != http.StatusUnauthorized && rec.Code != http.StatusTooManyRequests {
				t.Errorf("%s with %q: %d", pattern, authorization, rec.Code)
			}
		}
	}
}
