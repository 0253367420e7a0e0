//go:build !unix

package cli

import (
	"io"
	"os"
	"os/exec"
)

// relayed lists the signals that `run` handles. On this system that is only the
// interrupt, which the terminal sends to the command, too.
func relayed() []os.Signal { return []os.Signal{os.Interrupt} }

func fromTerminal(os.Signal) bool { return true }

// startConnected starts a process, and returns the other end of its input and output.
func startConnected(cmd *exec.Cmd) (io.ReadWriteCloser, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.WriteCloser
	}{out, in}, cmd.Start()
}

// keepTerminal does nothing on this system: the shell restores the terminal.
func keepTerminal() (restore func()) { return func() {} }
