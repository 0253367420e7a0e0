package till

import "github.com/caddyserver/caddy/v2/modules/caddyhttp"

// diagnoseGrace finds a server that waits for as long as any request is open when it is
// told to stop. Streams that do not end by themselves then keep it until a supervisor
// kills it, in the midst of all that it should still have settled and given back.
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
