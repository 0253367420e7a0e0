//go:build unix && !linux

package main

import (
	"errors"
	"os/exec"
	"syscall"
)

// processes are the process group of the running command: only Linux lets a process
// adopt orphans.
type processes struct{ group int }

func newProcesses() *processes { return &processes{} }

func (p *processes) adopt() error { return nil }

// start starts a command that does not see the terminal's signals.
func (p *processes) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.group = cmd.Process.Pid
	return nil
}

// end ends all of them.
func (p *processes) end() error {
	if p.group == 0 {
		return nil
	}
	if err := syscall.Kill(-p.group, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.EPERM) {
		return err // signalling a group of zombies is not permitted
	}
	return nil
}

type process struct {
	pid  int
	name string
}

// living is unknown on these systems.
func (p *processes) living() []process { return nil }
