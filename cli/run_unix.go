//go:build unix

package cli

import (
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// relayed are the signals that `run` passes on to its command, but for those
// that whoever started it wants ignored. What stops and continues a job goes to
// all of its processes by itself.
func relayed() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
	return slices.DeleteFunc(all, signal.Ignored)
}

// foreground opens the terminal that this process is in the foreground of; nil
// when there is none.
func foreground() *os.File {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return nil
	}
	if group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() {
		_ = tty.Close() // it was only asked
		return nil
	}
	return tty
}

// fromTerminal reports whether a terminal sent the signal, to every process in
// the foreground: then the command has it already, and many take a second one
// to be impatience.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	tty := foreground()
	if tty == nil {
		return false
	}
	_ = tty.Close() // it was only asked
	return true
}

// keepTerminal returns what sets the terminal as it is now. Shells do that after
// a command that a signal ended, which could not; but what they see is run, which
// ends by itself.
func keepTerminal() (restore func()) {
	tty := foreground()
	if tty == nil {
		return func() {}
	}
	defer tty.Close() //nolint:errcheck // it was only asked
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return func() {}
	}
	return func() {
		if tty := foreground(); tty != nil { // whoever is not would be stopped
			_ = term.Restore(int(tty.Fd()), state) // what failed is said on it
			_ = tty.Close()
		}
	}
}

// detach keeps a process out of the reach of the terminal's signals.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
