package main

import (
	"errors"
	"fmt"
	"io"
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
	mine []int // the children that exec waits for
	over bool  // all have been ended
}

func newProcesses() *processes { return &processes{} }

// keeping is the first argument of this program where it keeps one command, with the
// command after it.
const keeping = "keep"

// keptNames is the file to which a keeper writes what its command left running.
const keptNames = 3

// runKept runs a command. Processes that it leaves running become children of this
// process, and so are not taken for those of a phase beside it; they are named and ended.
func runKept(args []string) int {
	p := newProcesses()
	code, err := p.keep(exec.Command(args[0], args[1:]...))
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
		return exitFailed
	}
	return code
}

func (p *processes) keep(cmd *exec.Cmd) (code int, err error) {
	if err := p.adopt(); err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := p.startOwn(cmd); err != nil {
		return 0, err
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		return 0, err
	}
	code = cmd.ProcessState.ExitCode()
	if code < 0 { // a signal has ended it
		code = exitFailed
	}
	left := p.living()
	for try := 0; try < lastMoments && len(left) > 0; try++ {
		time.Sleep(10 * time.Millisecond)
		left = p.living()
	}
	names := os.NewFile(keptNames, "names")
	for _, d := range left {
		if _, err := fmt.Fprintln(names, d.name); err != nil {
			return 0, err
		}
	}
	return code, p.end()
}

// kept is a command that is kept by a process of its own.
type kept struct{ names *os.File }

// end returns what the command left running, after its keeper has ended that.
func (k *kept) end() (left []string, err error) {
	defer k.names.Close()
	b, err := io.ReadAll(k.names)
	return strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' }), err
}

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
		if d.dead && d.parent == os.Getpid() && !slices.Contains(p.mine, d.pid) {
			_, _ = syscall.Wait4(d.pid, nil, syscall.WNOHANG, nil) // at worst it stays a zombie until we end
		}
	}
}

// start starts a command with a keeper.
func (p *processes) start(cmd *exec.Cmd) (*kept, error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd.Args = slices.Concat([]string{self, keeping, cmd.Path}, cmd.Args[1:])
	cmd.Path = self
	names, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{theirs} // keptNames
	if err := errors.Join(p.startOwn(cmd), theirs.Close()); err != nil {
		return nil, errors.Join(err, names.Close())
	}
	return &kept{names}, nil
}

// startOwn starts a command that does not see the terminal's signals, and ends with
// this process.
func (p *processes) startOwn(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return errors.New("all processes have been ended")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.mine = append(p.mine, cmd.Process.Pid)
	return nil
}

// lastMoments is how many more looks decide whether a process that still runs when its
// command has ended was left behind: one that a test has killed may still need the processor
// to end.
const lastMoments = 100

// lastWords is how many times PostgreSQL is asked to end at once before it is killed: a
// server that is killed leaves shared memory behind.
const lastWords = 500

// end ends all processes, and lets no other start.
func (p *processes) end() error {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	var failed error
	for try := range 1000 { // a process may start while the others are killed
		living := p.living()
		if len(living) == 0 {
			return nil
		}
		failed = nil
		for _, d := range living {
			signal := syscall.SIGKILL
			if d.name == "postgres" && try < lastWords {
				signal = syscall.SIGQUIT
			}
			if err := syscall.Kill(d.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
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
