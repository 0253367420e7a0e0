package till

import (
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/upstream"
)

// logged returns the places of keys that Caddy's loggers do not redact.
func (s keySlots) logged() keySlots {
	return keySlots{slices.Concat(upstream.VendorSlots(), []string{protocolHeader}, s.headers), append([]string{"key"}, s.parameters...)}
}

// warnUnfilteredLogs logs which loggers would write scoped keys. Caddy itself redacts
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

// loggedKeys describes the logs that would hold scoped keys. Without access logs, only
// Caddy's error log holds keys: those of requests for which a handler other than till's
// fails.
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
	slots := a.slots.logged()
	for _, name := range unfilteredLogs(a.ctx, access, slots) {
		found = append(found, "the logger "+name+" writes scoped keys that arrive in "+strings.Join(slots.headers, ", ")+" or ?"+strings.Join(slots.parameters, "=, ?")+"="+when+"; filter them as Caddyfile.example does")
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

// unfilteredLogs lists the loggers that take requests, with access logs or without, and
// do not filter all slots. If it cannot find out, it returns the default logger, to be
// on the safe side.
func unfilteredLogs(ctx any, access bool, slots keySlots) []string {
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
		if !takesRequests(logger, access) {
			continue
		}
		encoder := logger.FieldByName("encoder")
		if encoder.Kind() != reflect.Interface {
			return unknown
		}
		if !filtersSlots(reflect.Indirect(encoder.Elem()), slots) {
			open = append(open, name.String())
		}
	}
	if !hasDefault {
		open = append(open, "default")
	}
	return open
}

// takesRequests reports whether a logger takes requests: those of the error log and, if
// there is one, of the access log. A site may give either log a name of its own.
func takesRequests(logger reflect.Value, access bool) bool {
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
	include, exclude := names("Include"), names("Exclude")
	logs := []string{"http.log.error"}
	if access {
		logs = append(logs, "http.log.access")
		for _, name := range include {
			if strings.HasPrefix(name, "http.log.access.") || strings.HasPrefix(name, "http.log.error.") {
				logs = append(logs, name)
			}
		}
	}
	return slices.ContainsFunc(logs, func(name string) bool { return accepts(include, exclude, name) })
}

// accepts reports whether include and exclude let a log of this name through, as Caddy
// decides it: the longest namespace counts, and of the same in both that of exclude.
func accepts(include, exclude []string, name string) bool {
	longest := func(namespaces []string) (n int) {
		for _, namespace := range namespaces {
			if strings.HasPrefix(name+".", namespace+".") {
				n = max(n, len(namespace))
			}
		}
		return n
	}
	in, out := longest(include), longest(exclude)
	if slices.Contains(exclude, "*") { // all that modules log
		return false
	}
	return in > out || len(include) == 0 && out == 0
}

// filtersSlots reports whether a logger's encoder is a filter that covers every slot.
func filtersSlots(encoder reflect.Value, slots keySlots) bool {
	if encoder.Kind() != reflect.Struct {
		return false
	}
	fields := encoder.FieldByName("Fields")
	if fields.Kind() != reflect.Map {
		return false
	}
	passes := func(name string) bool { return !fields.MapIndex(reflect.ValueOf(name)).IsValid() }
	if passes("request>uri") || passesParameter(fields.MapIndex(reflect.ValueOf("request>uri")), slots.parameters) {
		return false
	}
	return !passes("request>headers") || !slices.ContainsFunc(slots.headers, func(slot string) bool { return passes("request>headers>" + slot) })
}

// passesParameter reports whether the filter of addresses is one of single parameters of
// the query, and leaves out one of these.
func passesParameter(filter reflect.Value, parameters []string) bool {
	for filter.Kind() == reflect.Interface || filter.Kind() == reflect.Pointer {
		filter = filter.Elem()
	}
	if filter.Kind() != reflect.Struct || filter.Type().Name() != "QueryFilter" {
		return false
	}
	filtered := make(map[string]bool)
	if actions := filter.FieldByName("Actions"); actions.Kind() == reflect.Slice {
		for i := range actions.Len() {
			if parameter := actions.Index(i).FieldByName("Parameter"); parameter.Kind() == reflect.String {
				filtered[parameter.String()] = true
			}
		}
	}
	return slices.ContainsFunc(parameters, func(parameter string) bool { return !filtered[parameter] })
}
