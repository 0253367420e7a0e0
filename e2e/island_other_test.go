//go:build !linux

package e2e

import (
	"os/exec"
	"testing"
)

// island is a network of its own where the system has such a thing.
type island struct{ apart bool }

func newIsland(*testing.T) *island { return new(island) }

func (*island) open(*testing.T, string) {}

func (*island) start(cmd *exec.Cmd) error { return cmd.Start() }

func (*island) hosts() []string { return nil }
