//go:build unix

package till

import (
	"io/fs"
	"syscall"
)

// ownerOf returns the owner of a file or a directory.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}
