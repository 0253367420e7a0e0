//go:build !linux

package upstream

import (
	"testing"
	"time"
)

// work is how long fn takes.
func work(_ *testing.T, fn func()) time.Duration {
	began := time.Now()
	fn()
	return time.Since(began)
}
