package e2e

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// world is a machine as the pages of docs/ have it, for one of them: its own
// /etc, /var, /usr/bin and /mnt over those that are here, its own network, in
// which the names of providers and of example.com lead to Caddies of its own, and
// a shell, in which the commands of a page run one after the other.
//
// systemd is not there: systemctl and journalctl are small stand-ins that do what
// the shipped unit says (see testdata/world.sh); the sandbox of the unit is not
// tried.
type world struct {
	t     *testing.T
	shell *os.Process
	ask   io.Writer
	said  *bufio.Reader
}

//go:embed testdata/world.sh
var worldScript string

// settling is set for a process that is to become the shell of a world.
const settling = "TILL_TEST_WORLD"

// The namespaces are new when this runs, and nothing was started in them yet.
func init() {
	dir := os.Getenv(settling)
	if dir == "" {
		return
	}
	err := raise("lo", netip.Addr{})
	if err == nil {
		err = syscall.Exec("/bin/bash", []string{"bash", "-c", worldScript, "world", dir}, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "a world of its own: ", err)
	os.Exit(1)
}

// newWorld makes a world. More is put into the till block of its server.
func newWorld(t *testing.T, p *page) *world {
	t.Helper()
	takesPlace(t)
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Env = []string{
		settling + "=" + t.TempDir(), "CADDY=" + plainBinary, "CHECKOUT=" + root, "SERVES=" + strconv.FormatBool(p.serves), "MORE=" + p.till, "TEMP=" + os.TempDir(),
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY", "GOTOOLCHAIN"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimSpace(string(value)))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// With the first process of a world all others end.
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	ask, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a page needs mount, network and process namespaces of its own, as root or with user namespaces "+
			"(kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): %v", err)
	}
	t.Cleanup(func() {
		_ = ask.Close() // the shell ends, and with it all that it started
		_ = cmd.Wait()  // by a signal, or with the status of the last command
	})
	w := &world{t: t, shell: cmd.Process, ask: ask, said: bufio.NewReader(said)}
	if out, status := w.runs("true", ""); status != 0 {
		t.Fatalf("the world could not be made:\n%s", out)
	}
	return w
}

// runs runs a command in the world's shell, with something on its standard input.
func (w *world) runs(command, input string) (printed string, status int) {
	w.t.Helper()
	defer time.AfterFunc(patience, func() { _ = w.shell.Kill() }).Stop() // else it would hang, and the other tests end with it
	if _, err := io.WriteString(w.ask, command+"\x00"+input+"\x00"); err != nil {
		w.t.Fatalf("%s: the world has ended: %v", command, err)
	}
	printed, err := w.said.ReadString(0)
	if err != nil {
		w.t.Fatalf("%s: the world has ended, or this took longer than %s: %v\n%s", command, patience, err, printed)
	}
	code, err := w.said.ReadString(0)
	if err != nil {
		w.t.Fatal(err)
	}
	if status, err = strconv.Atoi(strings.TrimSuffix(code, "\x00")); err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSuffix(printed, "\x00"), status
}

// must runs a command that is to succeed.
func (w *world) must(command string) string {
	w.t.Helper()
	out, status := w.runs(command, "")
	if status != 0 {
		log, _ := w.runs("tail -n 20 /var/log/till.log 2>/dev/null", "")
		w.t.Fatalf("%s: exit %d\n%s\nThe server's log:\n%s", command, status, out, log)
	}
	return out
}

// stays runs a command that does not end until it has printed a text, and does
// something while it waits.
func (w *world) stays(command, text, while string) string {
	w.t.Helper()
	return w.must("stays " + quoted(command) + " " + quoted(text) + " " + quoted(while))
}

// quoted is a text as one word of the shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// heredoc is where a command's input begins on the next line.
var heredoc = regexp.MustCompile(`<<'?(\w+)'?`)

// commands are the commands of a block, with the lines that go on joined.
func commands(text string) (all []string) {
	var begun []string
	end := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		begun = append(begun, line)
		if m := heredoc.FindStringSubmatch(line); m != nil {
			end = m[1]
		}
		if end != "" && line != end || strings.HasSuffix(line, `\`) {
			continue
		}
		if end = ""; line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, strings.Join(begun, "\n"))
		}
		begun = nil
	}
	return all
}
