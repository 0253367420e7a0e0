package till

import (
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/upstream"
)

// warnUnfilteredLogs logs which loggers would write scoped keys. Caddy's own redact
// Authorization and cookies, and nothing more; and a request is copied for its logs
// before any handler runs, so only a filter on the logger helps.
func (a *App) warnUnfilteredLogs() {
	for _, what := range a.loggedKeys() {
		a.logger.Warn(what)
	}
}

// loggedKeys describes the logs that would hold scoped keys, and how to prevent it.
func (a *App) loggedKeys() (found []string) {
	app, err := a.ctx.AppIfConfigured("http")
	httpApp, ok := app.(*caddyhttp.App)
	if err != nil || !ok {
		return nil // nothing is served, so nothing is logged
	}
	logged, credentials := false, false
	for _, server := range httpApp.Servers {
		if server.Logs != nil {
			logged, credentials = true, credentials || server.Logs.ShouldLogCredentials
		}
	}
	if !logged {
		return nil
	}
	if credentials {
		found = append(found, "log_credentials is on: access logs will hold scoped keys")
	}
	for _, name := range unfilteredLogs(a.ctx) {
		found = append(found, "the logger "+name+" writes scoped keys that arrive in "+strings.Join(upstream.VendorSlots(), ", ")+" or ?key=; filter them as Caddyfile.example does")
	}
	return found
}

// configOf returns Caddy's configuration behind a context, which modules cannot ask for
// otherwise. The value is invalid if Caddy's fields differ from what is expected.
func configOf(ctx any) reflect.Value {
	cfg := reflect.Indirect(reflect.Indirect(reflect.ValueOf(ctx)).FieldByName("cfg"))
	if !cfg.IsValid() || cfg.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return cfg
}

// unfilteredLogs lists the loggers that take access logs and do not filter all slots.
// If it cannot find out, it returns the default logger, to be on the safe side.
func unfilteredLogs(ctx any) []string {
	unknown := []string{"default"}
	cfg := configOf(ctx)
	if !cfg.IsValid() {
		return unknown
	}
	logging := cfg.FieldByName("Logging")
	if logging.Kind() != reflect.Pointer || logging.IsNil() { // nil: the default logger, without a filter
		return unknown
	}
	logs := logging.Elem().FieldByName("Logs")
	if logs.Kind() != reflect.Map {
		return unknown
	}
	var open []string
	hasDefault := false
	for _, name := range logs.MapKeys() {
		hasDefault = hasDefault || name.String() == "default"
		encoder := reflect.Indirect(logs.MapIndex(name)).FieldByName("encoder")
		if encoder.Kind() != reflect.Interface {
			return unknown
		}
		if !filtersSlots(reflect.Indirect(encoder.Elem())) {
			open = append(open, name.String())
		}
	}
	if !hasDefault {
		open = append(open, "default")
	}
	return open
}

// filtersSlots reports whether a logger's encoder is a filter that covers every slot.
func filtersSlots(encoder reflect.Value) bool {
	if encoder.Kind() != reflect.Struct {
		return false
	}
	fields := encoder.FieldByName("Fields")
	if fields.Kind() != reflect.Map {
		return false
	}
	passes := func(name string) bool { return !fields.MapIndex(reflect.ValueOf(name)).IsValid() }
	if passes("request>uri") {
		return false
	}
	return !passes("request>headers") || !slices.ContainsFunc(upstream.VendorSlots(), func(slot string) bool { return passes("request>headers>" + slot) })
}
