//go:build !unix

package e2e

import "testing"

// refusingAddress returns an address that did not listen a moment ago.
func refusingAddress(t *testing.T) string {
	t.Helper()
	return freePort(t)
}
