//go:build !race

package e2e

// raced says that these tests run with the race detector, and so does the
// server that they start.
const raced = false
