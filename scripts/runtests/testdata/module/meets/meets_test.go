// Package meets waits for another phase, with an orphan that must outlive the phases
// before that.
package meets

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMeets(t *testing.T) {
	b, err := exec.Command("/bin/sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(orphan, syscall.SIGKILL)
	here, there := filepath.Join(os.Getenv("TELL"), os.Getenv("ME")), filepath.Join(os.Getenv("TELL"), os.Getenv("OTHER"))
	if err := os.WriteFile(here, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(there); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
	if err := syscall.Kill(orphan, 0); err != nil {
		t.Errorf("the orphan is gone: %v", err)
	}
}
