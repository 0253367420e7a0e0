package till

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

// diagnosis collects the faults of a configuration and its files.
type diagnosis struct{ findings []wire.Finding }

func (d *diagnosis) error(check, fix, what string, args ...any) {
	d.findings = append(d.findings, wire.Finding{Check: check, Level: wire.LevelError, What: fmt.Sprintf(what, args...), Fix: fix})
}

func (d *diagnosis) warn(check, fix, what string, args ...any) {
	d.findings = append(d.findings, wire.Finding{Check: check, Level: wire.LevelWarning, What: fmt.Sprintf(what, args...), Fix: fix})
}

// Diagnose returns the faults of the configuration and its files. It does not open
// the store, so that it can examine a configuration that is not running.
func (a *App) Diagnose() []wire.Finding {
	d := new(diagnosis)
	a.diagnoseSecrets(d)
	a.diagnoseFiles(d)
	a.diagnoseSources(d)
	a.diagnoseRoles(d)
	a.diagnoseServers(d)
	a.diagnoseGrace(d)
	a.diagnoseAdmin(d)
	if asOf, old := a.oldPrices(time.Now()); old {
		d.warn("prices", "update till, or in the till block: prices /etc/till/prices.json", "the built-in prices date from %s", asOf)
	}
	return d.findings
}

// diagnoseSecrets finds secrets that are written into the configuration, and
// credentials that are sent unencrypted.
func (a *App) diagnoseSecrets(d *diagnosis) {
	for _, h := range a.Webhooks {
		if h.literal() {
			d.error("literal_secret", "put it into a file of mode 0600, and in the webhook: secret {file./etc/till/hook.key}",
				"the secret of a webhook stands in the configuration, which the admin endpoint and the autosave show")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Upstreams)) {
		u := a.Upstreams[name]
		if literal(u.Credential) {
			d.error("literal_credential", "put it into a file of mode 0600, and in upstream "+name+": credential {file./etc/till/"+name+".key}",
				"the credential of upstream %s stands in the configuration, which the admin endpoint and the autosave show", name)
		}
		for _, o := range a.targets[name].origins {
			if o.scheme == "http" && o.network != "unix" && !isLoopback(o.host) {
				d.error("plain_upstream", "in upstream "+name+": to https://"+o.host,
					"upstream %s is reached at %s, so its credential travels unencrypted", name, o)
			}
		}
	}
	for i, key := range a.SealKeys {
		if literal(key) {
			d.error("literal_credential", "put it into a file of mode 0600: seal_key {file./etc/till/seal.key}",
				"seal key %d stands in the configuration, which the admin endpoint and the autosave show", i+1)
		}
	}
}

// diagnoseRoles finds roles under which keys of any size can be minted.
func (a *App) diagnoseRoles(d *diagnosis) {
	for _, name := range slices.Sorted(maps.Keys(a.Roles)) {
		r := a.Roles[name]
		if r == nil || !slices.Contains(r.Permissions, string(record.KeysCreate)) && !slices.Contains(r.Permissions, string(record.KeysUpdate)) {
			continue
		}
		if r.MaxActivations == 0 && r.MaxTokens == 0 && r.MaxSpendUSD == "" && r.MaxLifetime == 0 && r.Budget == nil {
			d.warn("open_role", "in role "+name+": max_activations 500, max_spend $5, max_lifetime 24h",
				"role %s may mint keys without any ceiling", name)
		}
	}
}

// diagnoseServers finds places where keys and admin tokens travel unencrypted, and
// logs that would hold them.
func (a *App) diagnoseServers(d *diagnosis) {
	public, _ := url.Parse(a.PublicURL) // checked by Provision
	behindTLS := public != nil && public.Scheme == "https"
	switch {
	case a.PublicURL == "":
		d.warn("public_url", "in the till block: public_url https://agents.example.com",
			"there is no public_url, so env, run and new keys cannot show clients the address")
	case !behindTLS && !isLoopback(public.Host):
		d.error("plain_http", "public_url https://"+public.Hostname()+", and a site of that name, for which Caddy gets a certificate",
			"clients are given %s, where keys travel unencrypted", a.PublicURL)
	}
	app, err := a.ctx.AppIfConfigured("http")
	httpApp, ok := app.(*caddyhttp.App)
	if err != nil || !ok {
		return // nothing is served
	}
	for _, name := range slices.Sorted(maps.Keys(httpApp.Servers)) {
		s := httpApp.Servers[name]
		what := served(s.Routes)
		if what == "" || len(s.TLSConnPolicies) > 0 {
			continue
		}
		for _, address := range s.Listen {
			if isLocalListener(address) {
				continue
			}
			const fix = "name the site by its host (agents.example.com { till }), or serve loopback only: bind 127.0.0.1"
			if behindTLS {
				d.warn("plain_http", fix+", or let nothing but the proxy reach it", "%s on %s without TLS; public_url says that a proxy in front of it has TLS", what, address)
			} else {
				d.error("plain_http", fix, "%s on %s without TLS, where others can read them", what, address)
			}
		}
	}
	const filter = "filter the default logger as Caddyfile.example does: format filter { request>headers>X-Api-Key delete … }"
	found, access := a.loggedKeys()
	for _, what := range found {
		if access {
			d.error("log_filter", filter, "%s", what)
		} else {
			d.warn("log_filter", filter, "%s", what)
		}
	}
}

// served says which part of till the routes of a server contain, as the start of a
// sentence; "" if none.
func served(routes caddyhttp.RouteList) string {
	for _, r := range routes {
		for _, h := range r.Handlers {
			switch h := h.(type) {
			case *Handler:
				return "keys are taken"
			case *caddyhttp.Subroute:
				if what := served(h.Routes); what != "" {
					return what
				}
			case caddy.Module:
				if h.CaddyModule().ID == "http.handlers.till_console" {
					return "admin tokens are taken"
				}
			}
		}
	}
	return ""
}

// diagnoseAdmin finds an admin endpoint that anyone but the operator can reach: it lets
// its clients do everything.
func (a *App) diagnoseAdmin(d *diagnosis) {
	const fix = "in the global options: admin unix//run/caddy/admin.sock|0600 (caddy till looks there by itself; for another path, set TILL_ADDRESS=unix//PATH)"
	listen := caddy.DefaultAdminListen
	if cfg := configOf(a.ctx); cfg.IsValid() {
		if conf := reflect.Indirect(cfg.FieldByName("Admin")); conf.IsValid() && conf.Kind() == reflect.Struct {
			if disabled := conf.FieldByName("Disabled"); disabled.IsValid() && disabled.Kind() == reflect.Bool && disabled.Bool() {
				return
			}
			if text := conf.FieldByName("Listen"); text.IsValid() && text.Kind() == reflect.String && text.String() != "" {
				listen = text.String()
			}
		}
	}
	na, err := caddy.ParseNetworkAddress(listen)
	switch {
	case err != nil || na.IsFdNetwork():
	case na.IsUnixNetwork():
		path, _, _ := strings.Cut(na.Host, "|")
		if mode, ok := modeOf(path); ok && mode&0o066 != 0 {
			d.error("admin_endpoint", "chmod 600 "+path+", and "+fix, "the admin endpoint %s has mode %04o, so that others on this machine are the operator", path, mode)
		}
	case !isLocalListener(listen):
		d.error("admin_endpoint", fix, "the admin endpoint is on %s: whoever reaches it over the network is the operator", listen)
	default:
		d.warn("admin_endpoint", fix, "the admin endpoint is on %s: every user of this machine, and so every agent on it, is the operator", listen)
	}
}

// isLocalListener reports whether a listener can only be reached from this machine.
func isLocalListener(address string) bool {
	na, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return false
	}
	return na.IsUnixNetwork() || na.IsFdNetwork() || isLoopback(na.Host)
}

// isLoopback reports whether a host, with or without a port, is this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
