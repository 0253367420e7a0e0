package till

import (
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/upstream"
)

// logSlots are the headers that hold only a key and that Caddy's loggers do not redact.
var logSlots = append(slices.Clone(upstream.VendorSlots()), protocolHeader)

// warnUnfilteredLogs logs which loggers would write scoped keys. Caddy's own redact
// Authorization and cookies, and nothing more; and a request is copied for its logs
// before any handler runs, so only a filter on the logger helps.
func (a *App) warnUnfilteredLogs() {
	found, access := a.loggedKeys()
	for _, what := range found {
		if access {
			a.logger.Warn(what)
		} else { // rarely, and the doctor says so, too
			a.logger.Info(what)
		}
	}
}

// loggedKeys describes the logs that would hold scoped keys. Without access logs those
// are the requests for which a handler other than till's fails: Caddy's error log has
// them.
func (a *App) loggedKeys() (found []string, access bool) {
	app, err := a.ctx.AppIfConfigured("http")
	httpApp, ok := app.(*caddyhttp.App)
	if err != nil || !ok || len(httpApp.Servers) == 0 {
		return nil, false // nothing is served, so nothing is logged
	}
	credentials := false
	for _, server := range httpApp.Servers {
		if server.Logs != nil {
			access, credentials = true, credentials || server.Logs.ShouldLogCredentials
		}
	}
	if credentials {
		found = append(found, "log_credentials is on: access logs will hold scoped keys")
	}
	when := ""
	if !access {
		when = " if a handler fails"
	}
	for _, name := range unfilteredLogs(a.ctx) {
		found = append(found, "the logger "+name+" writes scoped keys that arrive in "+strings.Join(logSlots, ", ")+" or ?key="+when+"; filter them as Caddyfile.example does")
	}
	return found, access
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

// unfilteredLogs lists the loggers that take requests and do not filter all slots.
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
		logger := reflect.Indirect(logs.MapIndex(name))
		if !takesRequests(logger) {
			continue
		}
		encoder := logger.FieldByName("encoder")
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

// takesRequests reports whether a logger takes any of http.log, as far as its include
// and exclude say.
func takesRequests(logger reflect.Value) bool {
	names := func(field string) (list []string) {
		f := logger.FieldByName(field)
		if f.Kind() != reflect.Slice {
			return nil
		}
		for i := range f.Len() {
			list = append(list, f.Index(i).String())
		}
		return list
	}
	whole := func(name string) bool { return name == "http" || name == "http.log" }
	include, exclude := names("Include"), names("Exclude")
	if len(include) > 0 {
		return slices.ContainsFunc(include, func(name string) bool { return whole(name) || strings.HasPrefix(name, "http.log.") })
	}
	return !slices.ContainsFunc(exclude, whole)
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
	return !passes("request>headers") || !slices.ContainsFunc(logSlots, func(slot string) bool { return passes("request>headers>" + slot) })
}
