package main

import (
	"context"
	"errors"
	"os"
)

// fileSize is how much space the load needs on the disk.
const fileSize = 64 << 20

func compute(ctx context.Context) {
	for x := uint64(1); ctx.Err() == nil; {
		for range 1 << 16 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		if x == 0 { // never true, but the compiler does not know that
			return
		}
	}
}

// scratch returns an unlinked file, so that nothing has to be removed.
func scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "till-burn")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// write writes the same bytes of a file over and over, a megabyte at a time, and
// waits for the disk after each round.
func write(ctx context.Context, f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	for round := byte(0); ; round++ {
		for i := range block {
			block[i] = round
		}
		for at := int64(0); at < size; at += int64(len(block)) {
			if ctx.Err() != nil {
				return nil
			}
			if _, err := f.WriteAt(block, at); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}
