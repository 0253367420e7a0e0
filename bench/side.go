package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// side is one of the two Caddy processes that are compared, with its measurements,
// one value for each round.
type side struct {
	name  string
	addr  string
	admin string
	key   string
	cmd   *exec.Cmd

	requests []int           // how many requests were made under load
	rate     []time.Duration // wall time per request under load
	cpu      []time.Duration // CPU time per request, user and system
	p50, p99 []time.Duration // latency under load
	alone    []time.Duration // median latency on one connection
	event    []time.Duration // median delay of a streamed event
	eventCPU []time.Duration // CPU time per event of streams under load

	sized [len(sized)][]time.Duration // CPU time per request with a larger body
}

// startSide runs Caddy with the site's directives. Both sides open a store and know the
// same upstream, so that they differ only in the site. dsn is the database in which all
// sides whose names are the same up to the first hyphen share a store; empty: the side has one
// of its own.
func startSide(dir, name, to, dsn, site string) (*side, error) {
	s := &side{name: name}
	addr, err := freePort()
	if err != nil {
		return nil, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	s.addr, s.admin = addr, admin
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, name+".caddyfile")
	place := "badger " + filepath.Join(dir, name)
	if dsn != "" {
		schema, _, _ := strings.Cut(name, "-")
		place = "postgres {env.BENCH_DSN} {\n\t\t\tschema " + schema + "\n\t\t}"
	}
	text := fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	log default {
		level ERROR
	}
	till {
		store %s
		upstream mock openai {
			to http://%s
			credential {env.BENCH_KEY}
		}
		price openai/m 1.00 2.00
	}
}
http://:%s {
	%s
}
`, admin, place, to, port, site)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s.cmd = exec.Command(*binary, "run", "--config", config, "--adapter", "caddyfile")
	s.cmd.Env = append(os.Environ(), "BENCH_KEY=sk-bench", "BENCH_DSN="+dsn, "XDG_DATA_HOME="+filepath.Join(dir, name+".data"), "XDG_CONFIG_HOME="+dir)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		s.key, err = mint(admin)
		if err == nil {
			return s, nil
		}
		if time.Now().After(deadline) {
			end(s.cmd)
			return nil, fmt.Errorf("%s did not start: %w", name, err)
		}
		time.Sleep(20 * time.Millisecond) // between two tries
	}
}

// plainProxy is the site of the side that till is compared with.
func plainProxy(to string) string {
	return "reverse_proxy " + to + " {\n\t\theader_up Authorization \"Bearer sk-bench\"\n\t}"
}

func mint(admin string) (string, error) {
	limits := `"max_activations":1000000000000`
	if *metered {
		limits += `,"max_tokens":1000000000000000,"max_spend_usd":"999999999"`
	}
	res, err := http.Post("http://"+admin+"/till/keys", "application/json",
		strings.NewReader(`{"name":"bench","upstream":"mock",`+limits+`}`))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var minted struct {
		ScopedKey string `json:"scoped_key"`
	}
	if err := json.NewDecoder(res.Body).Decode(&minted); err != nil {
		return "", err
	}
	if minted.ScopedKey == "" {
		return "", errors.New("minting answered " + res.Status)
	}
	return minted.ScopedKey, nil
}

// end stops a process of ours; its exit code does not affect what was measured.
func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// cpuTime returns the CPU time that the process has used so far. getrusage reports
// that of a child only once it has ended, so it is read where Linux shows it: fields
// 14 and 15 of /proc/PID/stat, in ticks of 10 ms (proc_pid_stat(5)).
func (s *side) cpuTime() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time is read from /proc, which only Linux has: %w", err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", s.cmd.Process.Pid, len(fields))
	}
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum, nil
}
