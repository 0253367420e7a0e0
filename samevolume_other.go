//go:build !unix

package till

// sameVolume is unknown on this system.
func sameVolume(string, string) (same, known bool) { return false, false }
