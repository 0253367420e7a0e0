// Package leak leaves everything behind: directories, and a process in a session of
// its own without any of the environment.
package leak

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

func leak(t *testing.T) {
	tell := func(name, text string) {
		file := filepath.Join(os.Getenv("TELL"), name)
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "left")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	tell("disk", dir)
	tell("memory", os.Getenv("TILL_TEST_MEMORY"))
	cmd := exec.Command("sleep", "600")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tell("pid", strconv.Itoa(cmd.Process.Pid))
}

func TestLeaksAndWaits(t *testing.T) {
	leak(t)
	select {}
}

func TestLeaksAndFails(t *testing.T) {
	leak(t)
	t.Error("as it should")
}
