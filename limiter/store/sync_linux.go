package store

import (
	"os"
	"syscall"
)

// syncData puts a file's content on the disk. The anchor's size never changes, so
// nothing else about the file has to survive a power cut, and writing its
// modification time each time would cost more than the content.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}

// allocate gives every page of a file its place on the disk. Where the filesystem
// cannot do that, the file only gets its size.
func allocate(f *os.File, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EOPNOTSUPP, syscall.ENOSYS:
			return nil
		}
		return err
	}
}
