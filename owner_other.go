//go:build !unix

package till

import "io/fs"

// foreign is unknown on this system.
func foreign(fs.FileInfo) (uid uint32, is bool) { return 0, false }
