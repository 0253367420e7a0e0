package limiter

import (
	"os"
	"syscall"
)

// syncData puts a file's content on the disk. The anchor's size never changes,
// so nothing else of it must be there after a power cut; and writing the time of
// its change each time would cost more than the content.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
