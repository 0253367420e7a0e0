package postgrestest

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// SmallDisk is a directory of the server's on a file system of this many bytes. It
// needs root.
func (s *Server) SmallDisk(t testing.TB, bytes int) string {
	t.Helper()
	dir, err := makeDir()
	if err != nil {
		t.Fatal(err)
	}
	uid, gid, _ := serverUser()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,uid=%d,gid=%d,mode=700", bytes, uid, gid)); err != nil {
		t.Skipf("SKIPPED, AND NOT SHOWN: no small disk can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
