package till

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/webhook"
)

// Webhook is an address that is notified of what happens to keys. Each message is
// signed as in Standard Webhooks, https://www.standardwebhooks.com, and kept in the
// store until it has been delivered.
type Webhook struct {
	// The address, https; http on loopback only. Placeholders `{env.*}` and
	// `{file.*}` are resolved when the configuration is loaded.
	URL string `json:"url"`

	// The secrets that messages are signed with, one signature each, so that one can be
	// replaced: "whsec_" and base64, or any other text, whose bytes are used as they
	// are. Use `{file.*}`, which is watched: a changed file takes effect within
	// seconds, or `{env.*}`; a literal would be visible in the configuration that the
	// admin endpoint shows. At least one is required.
	Secrets []string `json:"secrets"`

	// The events that are sent: key_created, key_threshold, key_exhausted, key_expired,
	// key_revoked, key_suspended, key_stale, key_leaked, key_after_death,
	// token_created, lockdown, lockdown_lifted. Default: all.
	Events []string `json:"events,omitempty"`
}

// maxWebhooks is how many webhooks a configuration may have: each has a goroutine.
const maxWebhooks = 32

func (a *App) provisionWebhooks() error {
	if len(a.Webhooks) > maxWebhooks {
		return fmt.Errorf("there may be %d webhooks, got %d", maxWebhooks, len(a.Webhooks))
	}
	for i, w := range a.Webhooks {
		h, err := w.provision()
		if err == nil {
			err = a.followFiles(fmt.Sprintf("the secret of webhook %d", i+1), w.Secrets, func(_ context.Context, texts []string) (bool, error) { return h.SetSecrets(texts) })
		}
		if err != nil {
			return fmt.Errorf("webhook %d: %w", i+1, err)
		}
		if slices.ContainsFunc(a.hooks, func(other *webhook.Endpoint) bool { return other.URL == h.URL }) {
			return fmt.Errorf("webhook %d: its address is declared twice: name all its events in one", i+1)
		}
		a.hooks = append(a.hooks, h)
	}
	return nil
}

func (w *Webhook) provision() (*webhook.Endpoint, error) {
	if w == nil {
		return nil, errors.New("must not be null")
	}
	address, err := caddy.NewReplacer().ReplaceOrErr(w.URL, true, true)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	h, err := webhook.NewEndpoint(strings.TrimSpace(address))
	if err != nil {
		return nil, err
	}
	if len(w.Secrets) == 0 {
		return nil, errors.New("needs a secret: secret {file./etc/till/hook.key}")
	}
	for _, name := range w.Events {
		if !slices.Contains(event.Names, event.Name(name)) {
			return nil, fmt.Errorf("there is no event %q; there are %s", name, eventNames())
		}
		h.Events = append(h.Events, event.Name(name))
	}
	return h, nil
}

// literal reports whether the configuration itself contains a secret.
func (w *Webhook) literal() bool {
	return slices.ContainsFunc(w.Secrets, literal)
}

// minHookSecret is the length in bytes below which a secret can be guessed.
const minHookSecret = 16

func (a *App) warnLiteralHooks() {
	for i, w := range a.Webhooks {
		if w.literal() {
			a.logger.Warn("the secret of this webhook stands in the configuration, which the admin endpoint and the autosave show; put it into a file (mode 0600) and write {file./path} instead",
				zap.Int("webhook", i+1))
		}
		for _, secret := range a.hooks[i].Secrets() {
			if len(secret.Reveal()) < minHookSecret {
				a.logger.Warn("the secret of this webhook is short enough to be guessed; make another with: echo whsec_$(openssl rand -base64 32)", zap.Int("webhook", i+1))
			}
		}
	}
}

// limiterHooks returns the webhooks in the form of the limiter's outbox.
func (a *App) limiterHooks() []event.Hook {
	hooks := make([]event.Hook, len(a.hooks))
	for i, h := range a.hooks {
		hooks[i] = event.Hook{URL: h.URL, Events: h.Events}
	}
	return hooks
}

// Delivery returns the state of the deliveries to a webhook.
func (a *App) Delivery(address string) wire.Delivery {
	return wire.Delivery(a.engine.hooks.State(address))
}

func eventNames() string {
	names := make([]string, len(event.Names))
	for i, name := range event.Names {
		names[i] = string(name)
	}
	return strings.Join(names, " ")
}

// parseWebhook reads a webhook:
//
//	webhook <url> {
//		secret <secret>    # repeatable: each signs
//		events <event…>    # default: all
//	}
func parseWebhook(d *caddyfile.Dispenser) (*Webhook, error) {
	w := new(Webhook)
	if !d.AllArgs(&w.URL) {
		return nil, d.Err("webhook takes one address and a block: webhook https://ops.example.com/till { secret {file./etc/till/hook.key} }")
	}
	if !strings.Contains(w.URL, "{") {
		if _, err := webhook.NewEndpoint(w.URL); err != nil {
			return nil, d.Errf("webhook: %v", err)
		}
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "secret":
			var secret string
			if !d.AllArgs(&secret) {
				return nil, d.Err("secret takes one secret, such as {file./etc/till/hook.key}; write another line for another")
			}
			w.Secrets = append(w.Secrets, secret)
		case "events":
			args := d.RemainingArgs()
			if len(args) == 0 {
				return nil, d.Errf("events takes some of %s; without this line all are sent", eventNames())
			}
			for _, name := range args {
				if !slices.Contains(event.Names, event.Name(name)) {
					return nil, d.Errf("there is no event %q; there are %s", name, eventNames())
				}
				if slices.Contains(w.Events, name) {
					return nil, d.Errf("event %s is named twice", name)
				}
				w.Events = append(w.Events, name)
			}
		default:
			return nil, d.Errf("unknown webhook option %q; there are secret, events", d.Val())
		}
	}
	if len(w.Secrets) == 0 {
		return nil, d.Err("webhook needs a secret: secret {file./etc/till/hook.key}")
	}
	return w, nil
}
