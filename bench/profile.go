package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profile writes where a side's CPU time goes under load, as DIR/<side>.pprof
// for requests and DIR/<side>-stream.pprof for streams. Read it with
// `go tool pprof`.
func (s *side) profile(dir string) error {
	for name, load := range map[string]func() error{
		s.name:             func() error { _, err := s.load(*parallel, 2**length, *requests); return err },
		s.name + "-stream": s.measureStreams,
	} {
		written := make(chan error, 1)
		go func() { written <- s.fetchProfile(filepath.Join(dir, name+".pprof")) }()
		// The profile needs whole seconds, which the load may have to be
		// repeated for.
		for done := false; !done; {
			if err := load(); err != nil {
				<-written
				return err
			}
			select {
			case err := <-written:
				if err != nil {
					return err
				}
				done = true
			default:
			}
		}
	}
	return nil
}

// fetchProfile asks Caddy's admin endpoint for a profile of some seconds.
func (s *side) fetchProfile(file string) (err error) {
	seconds := max(int(*length/time.Second), 1)
	res, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.admin, seconds))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("profiling %s: answered %s", s.name, res.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	_, err = io.Copy(f, res.Body)
	return err
}
