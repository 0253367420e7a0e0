// Package event is what happens to keys, and who hears of it: the outbox keeps messages
// for webhooks until they are delivered, feeds hand events to their readers, and nodes
// that share a store pass events on to each other.
//
// It knows neither who may read a feed nor what makes a key end: that is decided by the
// packages above it.
package event

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// Event is something that happened to a key. Events inform operators; nothing
// depends on one being delivered.
type Event struct {
	Name Name
	At   time.Time
	Key  *record.Key // nil if it is about no key
	By   string      // the name of the caller; empty if there was none
	// Token is the token of TokenCreated.
	Token *record.AdminToken
	// Code is why a key ended.
	Code record.Code
	// Of KeyAfterDeath: how often a dead key was used, the address of the last
	// use, and whether the key is a canary, which never worked.
	Count  int64
	From   string
	Canary bool
	// Of KeyStale: since when the key has been unused, and when it will be revoked
	// for that, if ever.
	Since, EndsAt time.Time
	// Reason is the operator's reason for LockdownSet.
	Reason string

	// Of KeyThreshold: the percentage of a limit that is used.
	Kind        record.Kind
	Percent     int
	Used, Limit int64
}

// Name is the name of an event, as Caddy's events app and webhooks use it.
type Name string

// The events.
const (
	KeyCreated   Name = "key_created"
	KeyThreshold Name = "key_threshold" // 50, 80 and 100 percent of a limit
	KeyExhausted Name = "key_exhausted"
	KeyExpired   Name = "key_expired"
	KeyRevoked   Name = "key_revoked"
	KeySuspended Name = "key_suspended"
	// KeyLeaked says that a key or token was revoked because its string was
	// found in the open.
	KeyLeaked Name = "key_leaked"
	// KeyStale says that a key has not been used for a long time.
	KeyStale Name = "key_stale"
	// KeyAfterDeath says that a key which no longer works, or a canary, was used:
	// at most once an hour per key.
	KeyAfterDeath Name = "key_after_death"
	// LockdownSet and LockdownLifted are about all keys.
	LockdownSet    Name = "lockdown"
	LockdownLifted Name = "lockdown_lifted"
	TokenCreated   Name = "token_created"
)

// Names are all events that webhooks can ask for.
var Names = []Name{
	KeyCreated, KeyThreshold, KeyExhausted, KeyExpired, KeyRevoked, KeySuspended,
	KeyStale, KeyLeaked, KeyAfterDeath, TokenCreated, LockdownSet, LockdownLifted,
}

// JSON is the event as webhooks and feeds send it, in the shape of Standard Webhooks. It
// never contains a secret.
func (e *Event) JSON() ([]byte, error) {
	b, err := json.Marshal(struct {
		Type      Name           `json:"type"`
		Timestamp string         `json:"timestamp"`
		Data      map[string]any `json:"data"`
	}{e.Name, e.At.UTC().Format(time.RFC3339Nano), e.Data()})
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", e.Name, err)
	}
	return b, nil
}

// Data are the particulars of the event, also for handlers of Caddy's events.
func (e *Event) Data() map[string]any {
	data := map[string]any{"time": e.At.UTC().Format(time.RFC3339Nano)}
	text := func(name, value string) { data[name] = token.Scrub(value) }
	if k := e.Key; k != nil {
		data["key_id"], data["upstream"], data["role"] = k.ID, k.Upstream, k.Role
		text("key_name", k.Name)
		text("owner", k.Owner)
		if k.Parent != "" {
			data["parent"] = k.Parent
		}
	}
	if e.Reason != "" {
		text("reason", e.Reason)
	}
	if t := e.Token; t != nil {
		data["token_id"], data["role"] = t.ID, t.Role
		text("token_name", t.Name)
	}
	if e.By != "" {
		text("by", e.By)
	}
	if e.Code != "" {
		data["code"] = string(e.Code)
		if e.Key != nil {
			text("reason", e.Key.EndedReason)
		}
	}
	if e.Name == KeyStale {
		data["unused_since"] = record.Stamp(e.Since)
		if !e.EndsAt.IsZero() {
			data["revoked_at"] = record.Stamp(e.EndsAt)
		}
	}
	if e.Name == KeyAfterDeath {
		data["count"], data["from"], data["canary"] = e.Count, e.From, e.Canary
	}
	if e.Name == KeyThreshold {
		data["percent"] = e.Percent
		data["limit_of"], data["used"], data["limit"] = e.Kind.Unit(), e.Kind.Value(e.Used), e.Kind.Value(e.Limit)
	}
	return data
}
