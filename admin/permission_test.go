package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/record"
)

// any is the permission in rows for calls that every admin token may make.
const anyToken record.Permission = ""

// calls lists every route of the management API with the permission it needs. A
// path with {id} is about one key, or about one token if it says so.
var calls = map[string]struct {
	permission record.Permission
	body       string
}{
	"POST /keys":               {record.KeysCreate, `{"upstream":"openai","max_activations":1}`},
	"GET /keys":                {record.KeysRead, ""},
	"GET /keys/{id}":           {record.KeysRead, ""},
	"GET /keys/{id}/usage":     {record.KeysRead, ""},
	"PATCH /keys/{id}":         {record.KeysUpdate, `{"name":"new"}`},
	"DELETE /keys/{id}":        {record.KeysUpdate, ""},
	"POST /keys/{id}/grant":    {record.KeysUpdate, `{"activations":1}`},
	"POST /keys/{id}/suspend":  {record.KeysRevoke, ""},
	"POST /keys/{id}/resume":   {record.KeysRevoke, ""},
	"POST /keys/{id}/revoke":   {record.KeysRevoke, ""},
	"POST /keys/{id}/rotate":   {record.KeysRotate, ""},
	"POST /leaks":              {record.KeysRevoke, `{"text":"x"}`},
	"POST /keys/revoke":        {record.KeysRevoke, `{"filter":{"q":"nosuch"}}`},
	"GET /jobs":                {record.KeysRevoke, ""},
	"GET /jobs/{id}":           {record.KeysRevoke, ""},
	"GET /stale":               {record.KeysRead, ""},
	"POST /fingerprint":        {record.KeysRead, `{"upstream_key":"sk-real"}`},
	"GET /spend":               {record.KeysRead, ""},
	"GET /events":              {record.KeysRead, ""},
	"GET /audit":               {record.AuditRead, ""},
	"GET /audit/verify":        {record.AuditRead, ""},
	"GET /audit/export":        {record.AuditRead, ""},
	"POST /tokens":             {record.TokensManage, `{"name":"NEW","role":"r"}`},
	"GET /tokens":              {record.TokensManage, ""},
	"POST /tokens/{id}/revoke": {record.TokensManage, ""},

	"GET /roles":                    {anyToken, ""},
	"GET /upstreams":                {anyToken, ""},
	"GET /upstreams/{name}/clients": {anyToken, ""},
	"GET /prices":                   {anyToken, ""},
	"GET /live":                     {anyToken, ""},
	"GET /ready":                    {anyToken, ""},
	"GET /stats":                    {anyToken, ""},
	"GET /lockdown":                 {anyToken, ""},
	"GET /openapi.json":             {anyToken, ""},
	"GET /doctor":                   {anyToken, ""},

	"POST /lockdown":       {record.Everything, `{"reason":"x"}`},
	"DELETE /lockdown":     {record.Everything, ""},
	"GET /backup":          {record.Everything, ""},
	"POST /store/repair":   {record.Everything, `{"clock":true}`},
	"GET /nodes":           {record.Everything, ""},
	"DELETE /nodes/{name}": {record.Everything, ""},
	"GET /seal":            {record.Everything, ""},
	"GET /webhooks":        {record.Everything, ""},
	"POST /seal/rotate":    {record.Everything, ""},
	"POST /console/link":   {record.Everything, ""},
}

func TestNoCallWithoutARow(t *testing.T) {
	t.Parallel()
	for pattern := range operations {
		if _, ok := calls[pattern]; !ok {
			t.Errorf("%s has no row in calls: say which permission it takes", pattern)
		}
	}
	if n := len(operations); n != len(calls) {
		t.Errorf("there are %d calls and %d rows", n, len(calls))
	}
}

// TestEveryPermissionOnEveryCallAndKey gives each permission by itself, and tries
// every call on the caller's own key, on one of the role, and on another.
func TestEveryPermissionOnEveryCallAndKey(t *testing.T) {
	t.Parallel()
	for _, sees := range record.Sights {
		for _, has := range append([]record.Permission{""}, record.Permissions...) {
			t.Run(fmt.Sprintf("%s sees %s", has, sees), func(t *testing.T) {
				t.Parallel()
				tryCalls(t, has, sees)
			})
		}
	}
}

func tryCalls(t *testing.T, has record.Permission, sees record.Sight) {
	w := newWorld(t)
	full := record.NewRole()
	full.Permissions, full.Sees = record.Permissions, sees
	narrow := full
	narrow.Permissions = nil
	if has != "" {
		narrow.Permissions = []record.Permission{has}
	}
	use := func(r record.Role) {
		if err := w.SetRoles(map[string]record.Role{"r": r}); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, call := range calls {
		use(full)
		by := w.newToken("by "+pattern, "r")
		colleague := w.newToken("colleague of "+pattern, "r")
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
			hidden := whose == "foreign" && sees != record.SeesAll || whose == "role" && sees == record.SeesOwn
			var fits bool
			switch {
			case call.permission != anyToken && call.permission != has:
				fits = a.Status == http.StatusForbidden
			case hidden:
				fits = a.Status == http.StatusNotFound
			case pattern == "DELETE /keys/{id}":
				fits = a.Status == http.StatusConflict // the key is alive
			case pattern == "GET /audit/export" && sees != record.SeesAll:
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

// TestEveryCallWithoutATokenIsRefused is about authentication, not about roles.
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
