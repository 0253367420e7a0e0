package main

import (
	"context"
	"errors"
	"os"
)

// fileSize is all that the disk has to have.
const fileSize = 64 << 20

// compute keeps one thread busy.
func compute(ctx context.Context) {
	for x := uint64(1); ctx.Err() == nil; {
		for range 1 << 16 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		if x == 0 { // never, which the compiler does not know
			return
		}
	}
}

// scratch is a file that has no name any more, so that nobody has to remove it.
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
