//go:build race

package e2e

// raced says that these tests run with the race detector, and so does the
// server that they start, in which everything takes some times as much.
const raced = true
