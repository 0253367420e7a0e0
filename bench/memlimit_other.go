//go:build !linux

package main

import "errors"

const limitMB = 300

func makeCgroup() (string, func() error, error) {
	return "", nil, errors.New("only Linux limits a process's memory")
}

func limitMemory(string) error { return errors.ErrUnsupported }

func dropCache(string) error { return errors.ErrUnsupported }
