//go:build !unix

package cli

import (
	"os"
	"os/exec"
)

// relayed lists the signals that `run` handles. On this system that is only the
// interrupt, which the terminal sends to the command, too.
func relayed() []os.Signal { return []os.Signal{os.Interrupt} }

func fromTerminal(os.Signal) bool { return true }

func detach(*exec.Cmd) {}

// keepTerminal does nothing on this system: the shell restores the terminal.
func keepTerminal() (restore func()) { return func() {} }
