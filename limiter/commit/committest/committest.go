// Package committest starts committers for the tests of participants in commits.
package committest

import (
	"log/slog"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/store"
)

// Transaction is what the changes of these committers get.
type Transaction = *commit.Transaction

// Options are those of such a committer.
type Options = commit.Options[Transaction]

// Committer is a committer without a batch of its own.
type Committer = commit.Committer[Transaction]

// Start starts a committer that ends with the test.
func Start(t testing.TB, s store.Store, with ...func(o *Options)) *Committer {
	t.Helper()
	o := Options{
		Store: s, Batch: func(t Transaction) Transaction { return t }, Patience: time.Minute,
		Log: slog.New(slog.DiscardHandler),
	}
	for _, fn := range with {
		fn(&o)
	}
	c := commit.New(o)
	t.Cleanup(c.Close)
	return c
}
