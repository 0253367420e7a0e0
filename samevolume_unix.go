//go:build unix

package till

import "syscall"

// sameVolume reports whether two paths are on one filesystem.
func sameVolume(a, b string) (same, known bool) {
	var one, two syscall.Stat_t
	if syscall.Stat(a, &one) != nil || syscall.Stat(b, &two) != nil {
		return false, false
	}
	return one.Dev == two.Dev, true
}
