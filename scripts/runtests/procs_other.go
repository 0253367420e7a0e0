//go:build unix && !linux

package main

import (
	"errors"
	"os/exec"
	"sync"
	"syscall"
)

// keeping is no argument on these systems: only Linux lets a process adopt orphans.
const keeping = ""

func runKept([]string) int { return exitUsage }

// processes are the process groups of the commands.
type processes struct {
	mu   sync.Mutex
	all  map[*kept]bool // that have not ended
	over bool           // all have been ended
}

func newProcesses() *processes { return &processes{all: map[*kept]bool{}} }

func (p *processes) adopt() error { return nil }

// kept is the process group of a command.
type kept struct {
	p     *processes
	group int
}

// start starts a command that does not see the terminal's signals.
func (p *processes) start(cmd *exec.Cmd) (*kept, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return nil, errors.New("all processes have been ended")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	k := &kept{p, cmd.Process.Pid}
	p.all[k] = true
	return k, nil
}

// end ends the group. What else the command left running is unknown on these systems.
func (k *kept) end() (left []string, err error) {
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	delete(k.p.all, k)
	return nil, k.kill()
}

func (k *kept) kill() error {
	if err := syscall.Kill(-k.group, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.EPERM) {
		return err // signalling a group of zombies is not permitted
	}
	return nil
}

// end ends all processes, and lets no other start.
func (p *processes) end() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	var failed error
	for k := range p.all {
		failed = errors.Join(failed, k.kill())
	}
	return failed
}
