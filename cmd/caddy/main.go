// Command caddy is Caddy with till built in: what `go run`, the tests and the
// container image use. An operator's own build takes the same module with
// `xcaddy build --with github.com/till-proxy/till`.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/till-proxy/till"
)

func main() {
	caddycmd.Main()
}
