//go:build !unix

package till

// sameVolume reports that the answer is not known on this system.
func sameVolume(string, string) (same, known bool) { return false, false }
