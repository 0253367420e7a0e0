//go:build unix

package limiter

import (
	"os"
	"strings"
	"syscall"
)

func mapFile(f *os.File, size int) ([]byte, error) {
	return syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
}

func unmapFile(mem []byte) error { return syscall.Munmap(mem) }

// bootID names this boot of the machine; empty where the system does not
// tell, and then no shadow is believed.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	if s := strings.TrimSpace(string(id)); len(s) == shadowBootLen {
		return s
	}
	return ""
}
