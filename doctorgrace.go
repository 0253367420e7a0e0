package till

import "github.com/caddyserver/caddy/v2/modules/caddyhttp"

// diagnoseGrace finds a server that, when it is told to stop, waits for as long as any
// request is open. Streams that do not end by themselves then keep it running until a
// supervisor kills it, before it has settled and given back everything.
func (a *App) diagnoseGrace(d *diagnosis) {
	app, err := a.ctx.AppIfConfigured("http")
	httpApp, ok := app.(*caddyhttp.App)
	if err != nil || !ok || httpApp.GracePeriod > 0 {
		return
	}
	for _, server := range httpApp.Servers {
		if served(server.Routes) != "" {
			d.warn("grace_period", "in the global options: grace_period 20s, and give systemd or Docker longer than that",
				"there is no grace_period: a server that is told to stop waits for every open stream, until it is killed")
			return
		}
	}
}
