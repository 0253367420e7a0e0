// Package leak leaves everything behind: directories, a process in a session of its own
// without any of the environment, and one with the name of PostgreSQL's that cleans up when it
// is asked to end.
package leak

import (
	"bufio"
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
	server(t)
	cmd := exec.Command("sleep", "600")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tell("pid", strconv.Itoa(cmd.Process.Pid))
}

func server(t *testing.T) {
	t.Helper()
	script := filepath.Join(os.Getenv("TELL"), "postgres")
	const text = "#!/bin/sh\ntrap 'echo it is >\"$TELL/cleaned\"; exit' QUIT\necho ready\nwhile :; do sleep 600 & wait; done\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestLeaksAndWaits(t *testing.T) {
	leak(t)
	select {}
}

func TestLeaksAndFails(t *testing.T) {
	leak(t)
	t.Error("as it should")
}
