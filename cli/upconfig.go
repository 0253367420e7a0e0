package cli

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// maxSocketPath is the length of a socket's path on macOS and the BSDs (sun_path
// without its closing zero). Linux allows four bytes more.
const maxSocketPath = 103

// gracePeriod is how long running requests may go on when the server stops.
const gracePeriod = "10s"

// upConfig is the Caddyfile that `up` runs. It logs all errors, but only till's
// warnings: what Caddy warns about here is intended (no TLS on loopback, an admin
// socket without a host name).
var upConfig = template.Must(template.New("Caddyfile").Parse(`{
	admin {{.Socket}}
	persist_config off
	auto_https off
	grace_period {{.Grace}}
{{- if .Storage}}
	storage file_system {{.Storage}}
{{- end}}
{{- if .Verbose}}
	log default {
		level INFO
		{{template "filter"}}
	}
{{- else}}
	log default {
		level ERROR
		exclude {{.Loggers}}
		{{template "filter"}}
	}
	log till {
		level WARN
		include {{.Loggers}}
	}
{{- end}}
	till {
		store badger {{.Data}}
		seal_key_file {{.SealKey}}
		public_url {{.Public}}
{{- if .Console}}
		console_url http://{{.Console}}
{{- end}}
{{- range .Upstreams}}
		upstream {{.Name}} {{.Preset}} {
{{- if .To}}
			to {{.To}}
{{- end}}
			credential {env.{{.Variable}}}
		}
{{- end}}
	}
}

http://:{{.Port}} {
	bind {{.Host}}
	till
}
{{- if .Console}}

http://:{{.ConsolePort}} {
	bind {{.ConsoleHost}}
	till_console
}
{{- end}}
{{- if .Echo}}

http://localhost {
	bind {{.Echo}}
	till_echo
}
{{- end}}
{{- define "filter"}}format filter {
			request>headers>X-Api-Key delete
			request>headers>Api-Key delete
			request>headers>X-Goog-Api-Key delete
			request>headers>Sec-Websocket-Protocol delete
			request>headers>Till-Proof delete
			request>uri query {
				delete key
			}
		}{{end}}
`))

// upLoggers are the names under which till's modules log.
const upLoggers = "till http.handlers.till http.handlers.till_console http.reverse_proxy.transport.till admin.api.till"

type upUpstream struct{ Name, Preset, To, Variable string }

// foundUpstreams lists the presets whose key is in the environment, in the order of
// the presets. notes say what is odd about that environment.
func foundUpstreams(getenv func(string) string) (list []upUpstream, notes []string) {
	for _, p := range upstream.All() {
		for _, name := range p.KeyEnv {
			value := strings.TrimSpace(getenv(name))
			if value == "" {
				continue
			}
			if token.LooksLikeKey(value) {
				notes = append(notes, name+" holds a scoped key, not a real one, and is left out.")
				continue
			}
			list = append(list, upUpstream{Name: p.Name, Preset: p.Name, Variable: name})
			notes = append(notes, elsewhere(p, name, getenv)...)
			break
		}
	}
	return list, notes
}

// elsewhere notes if a client's variable points to another host than the one to
// which till sends the preset's key: perhaps the key is not from that vendor.
func elsewhere(p *upstream.Preset, keyName string, getenv func(string) string) (notes []string) {
	origin, err := url.Parse(p.Origin)
	if err != nil {
		return nil
	}
	family := func(name string) string { return name[:strings.IndexByte(name, '_')+1] }
	for _, v := range p.ClientEnv {
		theirs := slices.ContainsFunc(p.KeyEnv, func(name string) bool { return family(name) == family(v.Name) })
		if v.Key || !theirs || getenv(v.Name) == "" {
			continue
		}
		if u, err := url.Parse(getenv(v.Name)); err == nil && u.Host != "" && !strings.EqualFold(u.Host, origin.Host) {
			notes = append(notes, fmt.Sprintf("%s points to %s, but %s is sent to %s. If the key is for another host, name that with `to` in your own Caddyfile: --print-config.",
				v.Name, u.Host, keyName, origin.Host))
		}
	}
	return notes
}

func (o *upOptions) config(dir, listen, console string, upstreams []upUpstream) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || !isPort(port) || !isWord(host) || strings.Contains(host, "@") {
		return "", usage("--listen must be host:port, got %q", token.ScrubAddress(listen))
	}
	consoleHost, consolePort, err := consoleAt(console)
	if err != nil {
		return "", err
	}
	if !isWord(dir) {
		return "", usage("the data directory %q holds characters that have a meaning in a Caddyfile; name another with --data", dir)
	}
	socket := filepath.Join(dir, socketName)
	if len(socket) > maxSocketPath {
		return "", usage("the path of the management socket is too long (%d bytes, at most %d): %s; name a shorter directory with --data", len(socket), maxSocketPath, socket)
	}
	public := o.publicURL
	if err := wire.CheckAddress(public); public != "" && err != nil {
		return "", usage("--public-url %v", err)
	}
	if !isWord(public) {
		return "", usage("--public-url holds characters that have a meaning in a Caddyfile, got %q", public)
	}
	if public == "" {
		name := host
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			name = "localhost"
		}
		public = "http://" + net.JoinHostPort(name, port)
	}
	data := struct {
		Socket, Grace, Storage, Loggers, Data, SealKey, Public, Port, Host, Echo string
		Console, ConsoleHost, ConsolePort                                        string
		Verbose                                                                  bool
		Upstreams                                                                []upUpstream
	}{
		Socket: "unix/" + socket + "|0600", Grace: gracePeriod, Loggers: upLoggers, Verbose: o.verbose,
		Data: dir, SealKey: filepath.Join(dir, "seal.key"), Public: public,
		Port: port, Host: cmp.Or(host, "0.0.0.0"), Upstreams: upstreams,
		Console: console, ConsoleHost: consoleHost, ConsolePort: consolePort,
	}
	if dir != filepath.Join(caddy.AppDataDir(), "till") {
		// A data directory that was chosen holds everything, even Caddy's files.
		data.Storage = filepath.Join(dir, "caddy")
	}
	if len(upstreams) == 0 {
		echo := filepath.Join(dir, "echo.sock")
		data.Echo = "unix/" + echo + "|0600"
		data.Upstreams = []upUpstream{{Name: "echo", Preset: "openai", To: "unix/" + echo, Variable: echoVariable}}
	}
	var b strings.Builder
	err = upConfig.Execute(&b, data)
	return b.String(), err
}

// consoleAt splits the address of the console, which is empty if there is none. It
// must be on loopback, because people sign in over plain HTTP.
func consoleAt(address string) (host, port string, err error) {
	if address == "" {
		return "", "", nil
	}
	host, port, err = net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || !isPort(port) || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", "", usage("--console must be a loopback address of this machine, such as 127.0.0.1:8081, or off; got %q. To reach it from elsewhere, serve till_console over HTTPS, see docs/console.md", token.ScrubAddress(address))
	}
	return host, port, nil
}

// isPort reports whether a text is the number of a port.
func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// isWord reports whether a text is a single word in a Caddyfile, without a special
// meaning.
func isWord(s string) bool {
	return !strings.ContainsAny(s, "\"`{}#\\|$<>") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}
