//go:build !unix

package e2e

import "testing"

// nobody is an address that nobody listened on a moment ago.
func nobody(t *testing.T) string {
	t.Helper()
	return freePort(t)
}
