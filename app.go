// Package till is a Caddy plugin that turns one real API key into disposable ones:
// scoped keys with hard limits, checked before anything is forwarded.
//
// This package holds the parts that Caddy sees: the app, the handler, the reverse
// proxy's transport and the Caddyfile grammar. It does not know what a key may do,
// because limiter decides that, nor what a vendor's API looks like, because upstream
// knows that. The management API is in admin, the command line in cli.
package till

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/zap"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/admin/wire"
	_ "github.com/till-proxy/till/cli"  // registers the commands
	_ "github.com/till-proxy/till/echo" // registers the handler
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
	"github.com/till-proxy/till/webhook"
)

func init() {
	caddy.RegisterModule(App{})
}

// App is the till app: the store with its keys, the upstreams, and the roles.
// Handlers and transports of the http app look it up by its name.
type App struct {
	// Where keys and counts are kept: a module of the namespace till.stores.
	// Default: `{"module": "badger"}` in Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=till.stores inline_key=module"`

	// The file that records the last commit. A store that has lost commits does not
	// match it and stays closed. On another volume it also detects that the store's
	// volume was rolled back as a whole. To move it, stop the server and move the file.
	// Default: "anchor" in the store's directory.
	Anchor string `json:"anchor,omitempty"`

	// The server's own keys for sealed custody: 32 bytes each, in base64 or hex. The
	// first seals new boxes, the others still open old ones. Use `{file.*}`, which is
	// watched: a changed file takes effect within seconds, unless it lacks a key that
	// existing boxes need; or `{env.*}`. A literal would be visible in the
	// configuration that the admin endpoint shows. Default: made at the first start in
	// "till/seal.key" of Caddy's data directory, with mode 0600.
	SealKeys []string `json:"seal_keys,omitempty"`

	// The file of the seal keys that the server makes itself: the first at the first
	// start, more by `caddy till seal rotate`. It cannot be combined with seal_keys.
	// Default: "till/seal.key" in Caddy's data directory.
	SealKeyFile string `json:"seal_key_file,omitempty"`

	// The address at which clients reach this server, such as
	// "https://agents.example.com". It is printed with new keys; nothing else depends
	// on it. Default: none.
	PublicURL string `json:"public_url,omitempty"`

	// The address of the site with `till_console`, such as "https://till.example.com".
	// Sign-in links are made with it; nothing else depends on it. Default: none.
	ConsoleURL string `json:"console_url,omitempty"`

	// The longest body, in bytes, that is accepted where a limit has to read it:
	// from keys that list models, or that have a limit in tokens or dollars. It is kept
	// in memory until it has been sent; all such bodies together may take 256 MB. A
	// body that pauses for 30 seconds, or that arrives at less than 16 kB a second, is
	// refused. Other bodies are passed on as they arrive, whatever their length.
	// Default: 32 MB.
	MaxBody int64 `json:"max_body,omitempty"`

	// A file of prices that are added to the built-in ones or replace them, in the
	// schema till.prices/1. A changed file takes effect within seconds. Default: none.
	PricesFile string `json:"prices,omitempty"`

	// How long ended keys stay listed, at least a minute. After that they are
	// forgotten: record, salts and history are deleted, sums and the audit log stay.
	// Default: 90 days.
	Retain caddy.Duration `json:"retain,omitempty"`

	// How long entries of the audit log are kept, at least a day. The rest can still
	// be verified after older entries are gone. Default: for ever.
	AuditRetain caddy.Duration `json:"audit_retain,omitempty"`

	// After how long without use a key is reported as stale, at least a second: in
	// the report, and by the event key_stale. Default: 30 days.
	StaleAfter caddy.Duration `json:"stale_after,omitempty"`

	// Revoke stale keys, a day after they were reported, or half of stale_after if
	// that is shorter. Default: false.
	StaleRevoke bool `json:"stale_revoke,omitempty"`

	// Prices of single models, which override all others. Default: none.
	Prices []ModelPrice `json:"price,omitempty"`

	// What happens to requests of keys with a limit in dollars whose price is not
	// known: "refuse" refuses them, and "count_only" lets them pass without counting
	// dollars. Default: refuse.
	UnknownPrice string `json:"unknown_price,omitempty"`

	// Addresses that are notified of what happens to keys; see Webhook. Default: none.
	Webhooks []*Webhook `json:"webhooks,omitempty"`

	// The APIs that keys can be minted for, by name.
	Upstreams map[string]*Upstream `json:"upstreams,omitempty"`

	// The roles of the people and programs that manage keys, by name: what they may
	// do, and the ceilings of the keys minted under them. Default: none.
	Roles map[string]*Role `json:"roles,omitempty"`

	sealing   *sealing
	maxBody   int64
	prices    *atomic.Pointer[upstream.Prices] // those in force
	countOnly bool
	storage   Storage
	database  *PostgresStore // the same, if it is one
	engine    *engine
	targets   map[string]*target
	slots     keySlots // of all of them
	roles     map[string]record.Role
	logger    *zap.Logger
	slogger   *slog.Logger
	sink      *eventSink
	hooks     []*webhook.Endpoint
	sites     *sites
	sources   []*fileSource
	ctx       caddy.Context

	stopWatching func() // nil while no files are watched
}

// minRetain keeps a typing error from making ended keys vanish at once.
const minRetain = time.Minute

// minAuditRetain keeps a typing error from emptying the audit log.
const minAuditRetain = 24 * time.Hour

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "till", New: func() caddy.Module { return new(App) }}
}

// Provision checks the configuration and resolves credentials. It does not open the
// store, so that a configuration can be validated while a server runs.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.slogger, a.sites, a.prices = ctx, ctx.Logger(), limiter.Scrubbed(ctx.Slogger()), new(sites), new(atomic.Pointer[upstream.Prices])
	if a.StoreRaw == nil {
		a.StoreRaw = caddyconfig.JSONModuleObject(BadgerStore{}, "module", "badger", nil)
	}
	guest, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading store: %w", err)
	}
	var ok bool
	if a.storage, ok = guest.(Storage); !ok {
		return errNoStorage
	}
	if a.database, ok = guest.(*PostgresStore); ok {
		if err := a.followAddress(); err != nil {
			return fmt.Errorf("store postgres: %w", err)
		}
	}
	at := a.storage.Place()
	if at.Shared && a.Anchor != "" {
		return errAnchorOfShared
	}
	if a.Anchor != "" {
		path, err := caddy.NewReplacer().ReplaceOrErr(a.Anchor, true, true)
		if err != nil {
			return fmt.Errorf("anchor: %w", err)
		}
		if a.Anchor, err = filepath.Abs(path); err != nil {
			return fmt.Errorf("anchor: %w", err)
		}
	}
	for name, address := range map[string]*string{"public_url": &a.PublicURL, "console_url": &a.ConsoleURL} {
		if *address == "" {
			continue
		}
		if err := wire.CheckAddress(*address); err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
		*address = strings.TrimSuffix(*address, "/")
	}
	if a.maxBody = a.MaxBody; a.maxBody == 0 {
		a.maxBody = defaultMaxBody
	}
	if a.maxBody < 1 || a.maxBody > maxBuffered/2 {
		return fmt.Errorf("max_body must be from 1 to %d bytes, got %d", int64(maxBuffered/2), a.MaxBody)
	}
	if a.Retain < 0 || a.Retain != 0 && a.Retain < caddy.Duration(minRetain) {
		return fmt.Errorf("retain must be at least %s, got %s", minRetain, time.Duration(a.Retain))
	}
	if a.StaleAfter != 0 && a.StaleAfter < caddy.Duration(time.Second) {
		return fmt.Errorf("stale_after must be at least 1s, got %s", time.Duration(a.StaleAfter))
	}
	if a.AuditRetain != 0 && a.AuditRetain < caddy.Duration(minAuditRetain) {
		return fmt.Errorf("audit_retain must be at least %s, got %s", minAuditRetain, time.Duration(a.AuditRetain))
	}
	if err := a.loadPrices(); err != nil {
		return err
	}
	if err := a.provisionSealing(); err != nil {
		return err
	}
	if a.engine, err = acquireEngine(at, a.slogger); err != nil {
		return err
	}
	if err := a.engine.metrics.register(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if err := a.findEvents(); err != nil {
		return err
	}
	publicOrigin := ""
	if u, err := url.Parse(a.PublicURL); err == nil && u.Host != "" {
		publicOrigin = u.Scheme + "://" + u.Host
	}
	a.targets = make(map[string]*target, len(a.Upstreams))
	for _, name := range slices.Sorted(maps.Keys(a.Upstreams)) {
		t, err := a.Upstreams[name].provision(name)
		if err != nil {
			return fmt.Errorf("upstream %s: %w", name, err)
		}
		if err := a.provisionCredential(t, a.Upstreams[name].Credential); err != nil {
			return fmt.Errorf("upstream %s: %w", name, err)
		}
		t.publicOrigin = publicOrigin
		a.engine.metrics.giveCounters(t, name)
		t.contradictions, t.advice = a.engine.contradictions, a.engine.advice
		a.targets[name] = t
	}
	a.slots = slotsOf(a.targets)
	if err := a.provisionWebhooks(); err != nil {
		return err
	}
	return a.provisionRoles()
}

// Start opens the store and puts this configuration's roles into force.
func (a *App) Start() error {
	if _, err := a.sealing.get(); err != nil {
		return err
	}
	if err := a.engine.enter(a); err != nil {
		return err
	}
	if l := a.engine.current(); l != nil {
		l.LogAuditHead()
	}
	for _, name := range slices.Sorted(maps.Keys(a.Upstreams)) {
		if literal(a.Upstreams[name].Credential) {
			a.logger.Warn("the credential of this upstream stands in the configuration, which the admin endpoint and the autosave show; put it into a file (mode 0600) and write {file./path} instead",
				zap.String("upstream", name))
		}
	}
	if a.database != nil && a.database.literals() {
		a.logger.Warn("the password of the database stands in the configuration, which the admin endpoint and the autosave show; put the address into a file (mode 0600) and write {file./path} instead")
	}
	muteUpstreams()
	a.warnLiteralHooks()
	a.warnUnfilteredLogs()
	a.warnOldPrices(time.Now())
	a.warnDoubtful()
	a.watch()
	return nil
}

// misconfigured reports whether the store can only be opened with another
// configuration, or as another user or in another directory.
func misconfigured(err error) bool {
	for _, wrong := range []error{
		store.ErrLocked, store.ErrNoLocks, store.ErrExposed, store.ErrFormat, fs.ErrPermission, syscall.ENOTDIR, errAnchorInUse,
	} {
		if errors.Is(err, wrong) {
			return true
		}
	}
	return false
}

// Stop leaves the store open, because the next configuration may use it.
func (a *App) Stop() error {
	a.leave()
	a.endFeeds()
	return nil
}

// endFeeds ends all feeds of events.
func (a *App) endFeeds() {
	if l := a.engine.current(); l != nil {
		l.Outbox().Feeds.EndAll()
	}
}

// endFeedsAtExit ends all feeds when the server of a console begins to shut down with the
// process: it waits for their readers, and the app may be stopped after it, because Caddy
// stops apps in no particular order. At a reload nothing waits, and [App.Stop] ends them.
func (a *App) endFeedsAtExit() {
	if caddy.Exiting() {
		a.endFeeds()
	}
}

func (a *App) leave() {
	if a.stopWatching != nil {
		a.stopWatching()
	}
	a.engine.leave(a)
}

// Cleanup releases the engine. It also runs if Provision failed half-way. If something
// fails after all apps have started, such as a loader of configurations, Caddy goes on
// with the previous configuration and cleans this one up without stopping it.
func (a *App) Cleanup() error {
	muteUpstreams() // a log that ends has given the standard logger back
	if a.engine == nil {
		return nil
	}
	a.leave()
	return releaseEngine(a.engine.place)
}

// Limiter returns the limiter, and opens the store if this is its first use. Caddy
// starts apps in no particular order, so a request may arrive before Start.
func (a *App) Limiter() (*limiter.Limiter, error) {
	l, err := a.engine.open(a.storeOptions(), openingTime)
	if err != nil {
		return nil, fmt.Errorf("till: %w", err)
	}
	return l, nil
}

// Forfeit repairs a store that does not match its anchor, or a database that went back
// in time; see [limiter.Forfeit]. With imagine it only says what that would do.
func (a *App) Forfeit(by limiter.Caller, imagine bool) (limiter.Repaired, error) {
	return a.engine.forfeit(by, a.storeOptions(), imagine)
}

// Lockdown is the switch that refuses every key.
func (a *App) Lockdown() *limiter.Lockdown {
	a.engine.lockdown.Recall()
	return a.engine.lockdown
}

// UpstreamInfos lists the upstreams as configured, without credentials.
func (a *App) UpstreamInfos() []wire.UpstreamInfo {
	infos := make([]wire.UpstreamInfo, 0, len(a.targets))
	for _, name := range slices.Sorted(maps.Keys(a.targets)) {
		t := a.targets[name]
		info := wire.UpstreamInfo{
			Name: name, Preset: t.presetName, Dialect: string(t.preset.Dialect), Held: t.held.Load() != nil,
			CredentialEnv: a.Upstreams[name].credentialEnv(),
		}
		for _, o := range t.origins {
			info.Origins = append(info.Origins, o.String())
		}
		infos = append(infos, info)
	}
	return infos
}

// Fingerprints returns the fingerprints of the held credentials, by upstream.
func (a *App) Fingerprints(of func(token.Secret) string) map[string]string {
	named := make(map[string]string)
	for name, t := range a.targets {
		if held := t.held.Load(); held != nil {
			named[name] = of(held.secret)
		}
	}
	return named
}

// BaseURL is the configured public_url.
func (a *App) BaseURL() string { return a.PublicURL }

// appOf returns the app in a handler's or a transport's Provision.
func appOf(ctx caddy.Context) (*App, error) {
	v, err := ctx.AppIfConfigured("till")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, errors.New("the till app is not configured: declare an upstream in the global options, { till { upstream openai { … } } }")
	}
	if err != nil {
		return nil, err
	}
	return v.(*App), nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ admin.Backend      = (*App)(nil)
)
