package main

import (
	"crypto/sha256"
	"os"
	"strconv"
	"syscall"
)

func sum256(n uint64) [32]byte {
	return sha256.Sum256(strconv.AppendUint(nil, n, 10))
}

// onDisk returns how much space a file takes: Badger's files are longer than what was
// written to them.
func onDisk(path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512, nil
	}
	return info.Size(), nil
}
