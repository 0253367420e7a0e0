//go:build unix

package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

func mapFile(f *os.File, size int) ([]byte, error) {
	return syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
}

func unmapFile(mem []byte) error { return syscall.Munmap(mem) }

// FreeSpace is how many bytes this user may still write.
func FreeSpace(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // the types differ by system
}

// ownerOf is the user that a file belongs to.
func ownerOf(info os.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}

// shutEmpty gives an empty directory of this user the mode 0700, as initdb of PostgreSQL does,
// and reports whether it did: install -d and service managers make directories with mode 0755.
// It leaves every other one to be judged as it is: one that others may write to, because they
// could have put something there, and one with a special bit, because somebody shares it on
// purpose, such as the volume of a pod with an fsGroup. The links that a configuration names
// have been followed before; a link that somebody later puts in the directory's place is not.
func shutEmpty(path string) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil || !opensToReaders(info) {
		return false, err
	}
	// One directory is judged and changed, whatever is put in its place meanwhile.
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	shut, err := shutIfEmpty(dir)
	return shut, errors.Join(err, dir.Close())
}

func shutIfEmpty(dir *os.File) (bool, error) {
	info, err := dir.Stat()
	if err != nil || !opensToReaders(info) {
		return false, err
	}
	if _, err := dir.Readdirnames(1); !errors.Is(err, io.EOF) {
		return false, err
	}
	err = dir.Chmod(0o700)
	return err == nil, err
}

// opensToReaders reports whether something is a directory of this user that others can read
// or enter, but not change.
func opensToReaders(info fs.FileInfo) bool {
	mode := info.Mode()
	return mode&^0o055 == fs.ModeDir|0o700 && mode&0o055 != 0 && ownerOf(info) == os.Geteuid()
}

// BootID names this boot of the machine. It is empty where the system does not
// provide a name, and then no shadow is believed.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	if s := strings.TrimSpace(string(id)); len(s) == BootIDLen {
		return s
	}
	return ""
}
