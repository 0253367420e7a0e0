//go:build !unix

package cli

import (
	"os"
	"os/exec"
)

// relayed is what `run` passes on: here only an interruption, which its command
// has had from the terminal.
func relayed() []os.Signal { return []os.Signal{os.Interrupt} }

func fromTerminal(os.Signal) bool { return true }

func detach(*exec.Cmd) {}

// keepTerminal leaves the terminal to the shell.
func keepTerminal() (restore func()) { return func() {} }
