//go:build unix

package till

import (
	"io/fs"
	"os"
	"syscall"
)

// foreign reports whether somebody else owns a file or a directory than this process or
// root, and who: an owner can change its content and its mode at any time.
func foreign(info fs.FileInfo) (uid uint32, is bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Uid, stat.Uid != 0 && int(stat.Uid) != os.Geteuid()
}
