package wire

import (
	"time"

	"github.com/till-proxy/till/limiter"
)

// BulkJSON is a job that revokes many keys, as callers see it.
type BulkJSON struct {
	Matched int64 `json:"matched"`
	Revoked int64 `json:"revoked"`
	// AlreadyRevoked counts the matched keys that had been revoked before.
	AlreadyRevoked int64 `json:"already_revoked"`
	StreamsCut     int   `json:"streams_cut"`
	DryRun         bool  `json:"dry_run,omitempty"`

	Job    string     `json:"job,omitempty"`
	Done   *bool      `json:"done,omitempty"`
	At     *time.Time `json:"at,omitempty"`
	By     string     `json:"by,omitempty"`
	Reason string     `json:"reason,omitempty"`
	// Unreadable counts keys whose records cannot be read, once all others are ended.
	Unreadable int64 `json:"unreadable,omitempty"`
	// Failure is why the job does not make progress now.
	Failure string `json:"failure,omitempty"`
	// Pending names the nodes that have not yet heard of the job.
	Pending []string `json:"pending,omitempty"`
	// Replayed says that the call was done before, and was not done again.
	Replayed bool `json:"replayed,omitempty"`
}

// LeaksAnswer lists what was found in a text, and what was done about it.
type LeaksAnswer struct {
	// Found counts the strings of keys and tokens in the text, each once.
	Found int `json:"found"`
	// Revoked lists the ids of the keys and tokens that were revoked, if the caller
	// sees them.
	Revoked []string `json:"revoked"`
	// Unknown counts the strings that belong to no key and no token here.
	Unknown int  `json:"unknown"`
	DryRun  bool `json:"dry_run,omitempty"`
	// Matches lists all the strings, in the order of the text.
	Matches []LeakMatch `json:"matches"`
	// Made are the tokens that were made with those found, and that still work.
	Made []MadeToken `json:"made_tokens,omitempty"`
	// Error says that some of the matches failed. The answer has the status of an error
	// then.
	Error *Fault `json:"error,omitempty"`
	// Pending names the nodes that have not yet followed.
	Pending []string `json:"pending,omitempty"`
}

// LeakMatch is one string that was found. It never holds the full string.
type LeakMatch struct {
	Hint  string            `json:"hint"` // its beginning
	ID    string            `json:"id,omitempty"`
	Name  string            `json:"name,omitempty"`
	State limiter.LeakState `json:"state"`
	Error string            `json:"error,omitempty"` // why it failed
}

// Fault is what went wrong, for programs and for people.
type Fault struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// StaleEntry is a key that somebody should look at, for one reason.
type StaleEntry struct {
	Key    *KeyObject          `json:"key"`
	Reason limiter.StaleReason `json:"reason"`
	Detail string              `json:"detail"`
	// Fix is the command that fixes it.
	Fix string `json:"fix"`
}

// StaleAnswer is a page of keys that somebody should look at.
type StaleAnswer struct {
	Keys    []StaleEntry `json:"keys"`
	Next    string       `json:"next,omitempty"`
	Partial bool         `json:"partial,omitempty"`
}

// Spending is what one part of the keys has used, by upstream, owner and model. For
// all keys, ask again with next, and add the parts up.
type Spending struct {
	Upstream []UsedBy `json:"upstream"`
	Owner    []UsedBy `json:"owner"`
	// Model groups the keys that may use only one model. The others are under the
	// empty name.
	Model    []UsedBy `json:"model"`
	LookedAt int      `json:"looked_at"`
	Next     string   `json:"next,omitempty"`
}

// UsedBy is what keys have used in their entire life, renewals included.
type UsedBy struct {
	Name        string `json:"name"`
	Keys        int64  `json:"keys"`
	Activations int64  `json:"activations"`
	Tokens      int64  `json:"tokens"`
	SpendUSD    string `json:"spend_usd"`
}

// JobsAnswer lists the jobs that end many keys.
type JobsAnswer struct {
	Jobs []BulkJSON `json:"jobs"`
}
