//go:build !unix

package store

import (
	"errors"
	"math"
	"os"
)

func mapFile(*os.File, int) ([]byte, error) {
	return nil, errors.New("no shared mappings on this system")
}

func unmapFile([]byte) error { return nil }

// FreeSpace is not known here.
func FreeSpace(string) (int64, error) { return math.MaxInt64, nil }

// ownerOf is not known here.
func ownerOf(os.FileInfo) int { return -1 }

// shutEmpty does nothing here, where no owner is known.
func shutEmpty(string) (bool, error) { return false, nil }

// BootID is empty: without a boot id no shadow is believed.
func BootID() string { return "" }
