//go:build !unix

package limiter

import (
	"errors"
	"os"
)

func mapFile(*os.File, int) ([]byte, error) {
	return nil, errors.New("no shared mappings on this system")
}

func unmapFile([]byte) error { return nil }

// bootID is empty: without one no shadow is believed.
func bootID() string { return "" }
