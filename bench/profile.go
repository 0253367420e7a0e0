package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// profile writes where a side's CPU time goes under load, as DIR/<side>.pprof
// for requests, with the larger bodies as DIR/<side>-100kB.pprof and so on, and
// DIR/<side>-stream.pprof for streams. Read it with `go tool pprof`.
func (s *side) profile(dir string) error {
	under := func(body string) func() error {
		return func() error { _, err := s.load(*parallel, 2**length, body); return err }
	}
	loads := map[string]func() error{s.name: under(body), s.name + "-stream": s.measureStreams}
	for _, b := range sized {
		loads[s.name+"-"+strings.ReplaceAll(b.name, " ", "")] = under(b.text)
	}
	for name, load := range loads {
		written := make(chan error, 1)
		go func() { written <- s.fetchProfile(filepath.Join(dir, name+".pprof")) }()
		// The profile takes whole seconds, for which the load may have to be
		// repeated.
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
func (s *side) fetchProfile(file string) error {
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
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}

// commits is how often a store committed, and how long that took.
type commits struct {
	n    int64
	mean time.Duration
}

// commits reads both from the metrics.
func (s *side) commits() (c commits, err error) {
	res, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return c, err
	}
	defer res.Body.Close()
	var sum float64
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case "caddy_till_store_commit_seconds_sum":
			sum, err = strconv.ParseFloat(value, 64)
		case "caddy_till_store_commit_seconds_count":
			c.n, err = strconv.ParseInt(value, 10, 64)
		}
		if err != nil {
			return c, fmt.Errorf("reading metrics of %s: %w", s.name, err)
		}
	}
	if c.n > 0 {
		c.mean = time.Duration(sum / float64(c.n) * float64(time.Second))
	}
	return c, nil
}
