package admin

import (
	"net/http"

	"github.com/till-proxy/till/admin/clients"
	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/limiter"
)

// clients tells the lines for each client of an upstream, with a blank where
// the key's string belongs.
func (a *api) clients(_ *limiter.Limiter, r *http.Request) (int, any, error) {
	name := r.PathValue("name")
	for _, info := range a.backend.UpstreamInfos() {
		if info.Name == name {
			return http.StatusOK, map[string]any{
				"upstream": name, "base_url": a.backend.BaseURL(), "clients": clients.Of(info, a.backend.BaseURL(), clients.Blank),
			}, nil
		}
	}
	return 0, nil, &apiError{http.StatusNotFound, "not_found", "upstream " + prose.Cut(name, 64) + " is not configured"}
}
