package e2e

import (
	"os/exec"
	"syscall"
)

// endWithTests lets the kernel end a process when the tests die without a
// chance to clean up, as they do on a timeout.
func endWithTests(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
