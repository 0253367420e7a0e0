package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processes are all descendants of this process. Orphans among them are reparented to
// it instead of init, so that it sees all of them, whatever session or group they
// join.
type processes struct {
	mu   sync.Mutex
	mine int // the child that exec waits for
}

func newProcesses() *processes { return &processes{} }

// adopt makes this process the parent of orphans, and reaps them when they end, as
// init would: tests wait for processes to be gone.
func (p *processes) adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopting orphans: %w", err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			p.bury()
		}
	}()
	return nil
}

func (p *processes) bury() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range descendants() {
		if d.dead && d.parent == os.Getpid() && d.pid != p.mine {
			_, _ = syscall.Wait4(d.pid, nil, syscall.WNOHANG, nil) // at worst it stays a zombie until we end
		}
	}
}

// start starts a command that does not see the terminal's signals, and ends with
// this process.
func (p *processes) start(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.mine = cmd.Process.Pid
	return nil
}

// end ends all of them.
func (p *processes) end() error {
	var failed error
	for range 1000 { // a process may start while the others are killed
		living := p.living()
		if len(living) == 0 {
			return nil
		}
		failed = nil
		for _, d := range living {
			if err := syscall.Kill(d.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				failed = errors.Join(failed, fmt.Errorf("ending %s (%d): %w", d.name, d.pid, err))
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.Join(failed, errors.New("some processes of the tests do not end"))
}

func (p *processes) living() []process {
	return slices.DeleteFunc(descendants(), func(d process) bool { return d.dead })
}

type process struct {
	pid, parent int
	name        string
	dead        bool
}

func descendants() []process {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is valid
	children := map[int][]process{}
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// 12 (its name) S 1 …, and the name may have any character.
		pid, rest, _ := strings.Cut(string(b), " (")
		at := strings.LastIndex(rest, ") ")
		if at < 0 {
			continue
		}
		d := process{name: rest[:at]}
		fields := strings.Fields(rest[at+2:])
		if d.pid, err = strconv.Atoi(pid); err != nil || len(fields) < 2 {
			continue
		}
		if d.parent, err = strconv.Atoi(fields[1]); err != nil {
			continue
		}
		d.dead = fields[0] == "Z" || fields[0] == "X"
		children[d.parent] = append(children[d.parent], d)
	}
	below := slices.Clone(children[os.Getpid()])
	for i := 0; i < len(below); i++ {
		below = append(below, children[below[i].pid]...)
	}
	return below
}
