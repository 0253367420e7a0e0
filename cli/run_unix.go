//go:build unix

package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// relayed lists the signals that `run` passes on to its command, except for those
// that its parent set to be ignored. Signals that stop and continue a job reach all
// of its processes anyway.
func relayed() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
	return slices.DeleteFunc(all, signal.Ignored)
}

// foreground opens the terminal in whose foreground this process runs. It returns
// nil if there is none.
func foreground() *os.File {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return nil
	}
	if group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() {
		_ = tty.Close() // it was only queried
		return nil
	}
	return tty
}

// fromTerminal reports whether a terminal sent the signal to every process in the
// foreground. Then the command has received it already, and many commands take a
// second one for impatience.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	tty := foreground()
	if tty == nil {
		return false
	}
	_ = tty.Close() // it was only queried
	return true
}

// keepTerminal returns a function that restores the present state of the terminal.
// A shell restores it after a command that was ended by a signal and could not do
// so itself; but the shell only sees `run`, which exits normally.
func keepTerminal() (restore func()) {
	tty := foreground()
	if tty == nil {
		return func() {}
	}
	defer tty.Close() //nolint:errcheck // it was only queried
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return func() {}
	}
	return func() {
		if tty := foreground(); tty != nil { // a process in the background would be stopped
			_ = term.Restore(int(tty.Fd()), state) // an error could only be printed on this very terminal
			_ = tty.Close()
		}
	}
}

// startConnected starts a process, and returns the other end of its input and output.
// The process has its own session, which the signals of the terminal do not reach.
//
// Input and output are a socket, because every process that may inspect another in
// /proc can open its pipes there, and keeps them open whatever that process does
// afterwards.
func startConnected(cmd *exec.Cmd) (io.ReadWriteCloser, error) {
	syscall.ForkLock.RLock()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(ends[0])
		syscall.CloseOnExec(ends[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, its := os.NewFile(uintptr(ends[0]), "socket"), os.NewFile(uintptr(ends[1]), "socket")
	defer its.Close() //nolint:errcheck // the process has its own copy
	cmd.Stdin, cmd.Stdout, cmd.SysProcAttr = its, its, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}
