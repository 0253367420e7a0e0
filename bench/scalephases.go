package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// mint creates all keys: most belong to a thousand owners, and a tenth have an owner
// each.
func (e estate) mint(say func(measured)) (err error) {
	l, err := e.open()
	if err != nil {
		return err
	}
	began := time.Now()
	err = every(e.keys, func(i int) error {
		spec := &record.Key{
			Name: fmt.Sprintf("run %d", i), Upstream: "openai", Custody: record.CustodyHeld, Role: "ci",
			Owner: fmt.Sprintf("owner-%d", i%owners), Limit: record.NoLimits(), Labels: map[string]string{"n": strconv.Itoa(i % 7)},
		}
		if i%10 == 0 {
			spec.Owner = "many"
		}
		spec.Limit[record.Activations] = 500
		spec.ExpiresAt = began.Add(90 * 24 * time.Hour)
		_, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: e.lookup(i)})
		return err
	})
	took := time.Since(began)
	if err = errors.Join(err, l.Close()); err != nil {
		return err
	}
	size, err := sizeOf(e.dir)
	say(measured{Name: fmt.Sprintf("mint, %d callers", callers), Value: float64(e.keys) / took.Seconds(), Unit: "a second", Least: 3000})
	say(measured{Name: "store", Value: float64(size) / 1e6, Unit: "MB"})
	return err
}

// inUse opens the store, answers requests and lists, and leaves it open.
func (e estate) inUse(say func(measured)) (*limiter.Limiter, error) {
	began := time.Now()
	l, err := e.open()
	if err != nil {
		return nil, err
	}
	say(measured{Name: "open", Value: ms(time.Since(began)), Unit: "ms"})
	if err := e.load(l, say); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (e estate) load(l *limiter.Limiter, say func(measured)) error {
	opened := time.Now()
	if err := request(l, e.lookup(e.keys/2)); err != nil {
		return err
	}
	say(measured{Name: "first answer after that", Value: ms(time.Since(opened)), Unit: "ms", Most: 100})

	// Busy and slow keys run for as long as the store is in use.
	busy := min(e.keys, 20_000)
	requests := 20 * busy
	began := time.Now()
	err := every(requests, func(i int) error {
		n := rand.IntN(busy)
		if i%10 == 0 {
			n = rand.IntN(e.keys)
		}
		return request(l, e.lookup(n))
	})
	if err != nil {
		return err
	}
	say(measured{Name: fmt.Sprintf("requests with %d keys", min(busy+requests/10, e.keys)), Value: float64(requests) / time.Since(began).Seconds(), Unit: "a second"})

	for _, list := range []struct {
		name string
		f    limiter.Filter
	}{
		{"newest", limiter.Filter{}},
		{"owner", limiter.Filter{Owner: "owner-7"}},
		{"owner of a tenth", limiter.Filter{Owner: "many"}},
		{"role", limiter.Filter{Role: "ci"}},
		{"status", limiter.Filter{Status: record.Active}},
		{"status, none", limiter.Filter{Status: record.Expired}},
		{"upstream", limiter.Filter{Upstream: "openai"}},
		{"created_by", limiter.Filter{CreatedBy: "operator"}},
		{"last use", limiter.Filter{Sort: "-last_used"}},
		{"unused for 0 s", limiter.Filter{UnusedFor: time.Second}},
		{"name", limiter.Filter{Query: fmt.Sprintf("run %d", e.keys/2)}},
		{"label, whole page", limiter.Filter{Labels: map[string]string{"n": "3"}}},
	} {
		took, err := page(l, list.f)
		if err != nil {
			return fmt.Errorf("list by %s: %w", list.name, err)
		}
		m := measured{Name: "page of 50 by " + list.name, Value: ms(took), Unit: "ms", Most: 20}
		if len(list.f.Labels) > 0 {
			m.Most = 0 // no index serves this query
		}
		say(m)
	}
	return nil
}

// use answers requests and lists, and revokes a tenth.
func (e estate) use(say func(measured)) (err error) {
	l, err := e.inUse(say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	say(measured{Name: "RSS in use", Value: rss("VmRSS"), Unit: "MB"})
	say(measured{Name: "of that, pages of the store's files", Value: rss("RssFile"), Unit: "MB"})

	flood := min(e.keys, 500_000)
	debug.FreeOSMemory()
	before := rss("RssAnon")
	began := time.Now()
	err = every(flood, func(i int) error {
		if _, r := l.Find(context.Background(), e.lookup(e.keys+1+i)); r == nil {
			return errors.New("an unknown key was found")
		}
		return nil
	})
	if err != nil {
		return err
	}
	say(measured{Name: "unknown keys refused", Value: float64(flood) / time.Since(began).Seconds(), Unit: "a second"})
	debug.FreeOSMemory()
	say(measured{Name: "memory that these cost", Value: max(rss("RssAnon")-before, 0), Unit: "MB", Most: 32})

	began = time.Now()
	j, err := l.RevokeMany(limiter.Operator, limiter.Filter{Owner: "many"}, false, "bench")
	if err != nil {
		return err
	}
	say(measured{Name: "bulk revoke, until all are refused", Value: ms(time.Since(began)), Unit: "ms"})
	if j, err = l.Await(context.Background(), limiter.Operator, j.Number); err != nil {
		return err
	}
	if j.Revoked != int64((e.keys+9)/10) {
		return fmt.Errorf("%d revoked, want %d", j.Revoked, (e.keys+9)/10)
	}
	took := time.Since(began).Seconds()
	say(measured{Name: fmt.Sprintf("bulk revoke of %d keys, durable", j.Revoked), Value: took, Unit: "s", Most: max(10*float64(j.Revoked)/100_000, 1)})
	return nil
}

// withLimit runs use in a process that is limited to the memory of a small machine,
// with nothing of the store in the kernel's cache.
func (e estate) withLimit(say func(measured)) (err error) {
	if e.cgroup == "" {
		return nil
	}
	if err := errors.Join(dropCache(filepath.Join(e.dir, "store")), limitMemory(e.cgroup)); err != nil {
		return err
	}
	named := func(m measured) { m.Name = fmt.Sprintf("with %d MB: %s", limitMB, m.Name); say(m) }
	slowest := measured{Name: "slowest page of 50", Unit: "ms", Most: 20}
	l, err := e.inUse(func(m measured) {
		switch {
		case !strings.HasPrefix(m.Name, "page "):
			named(m)
		case m.Most > 0:
			slowest.Value = max(slowest.Value, m.Value)
		}
	})
	if err != nil {
		return err
	}
	named(slowest)
	named(measured{Name: "RSS in use", Value: rss("VmRSS"), Unit: "MB", Most: limitMB})
	return l.Close()
}

// forget waits until the sweeper has deleted the revoked tenth, and measures the
// files.
func (e estate) forget(say func(measured)) (err error) {
	before, err := sizeOf(e.dir)
	if err != nil {
		return err
	}
	l, err := e.open()
	if err != nil {
		return err
	}
	dead := l.Stats().Keys[record.Revoked]
	l.Retain(time.Nanosecond)
	began := time.Now()
	if err := forgotten(l); err != nil {
		return errors.Join(err, l.Close())
	}
	say(measured{Name: fmt.Sprintf("forgetting those %d keys", dead), Value: time.Since(began).Seconds(), Unit: "s"})
	say(measured{Name: "RSS after that", Value: rss("VmRSS"), Unit: "MB"})
	if err := l.Close(); err != nil {
		return err
	}
	after, err := sizeOf(e.dir)
	say(measured{Name: "store before", Value: float64(before) / 1e6, Unit: "MB"})
	say(measured{Name: "store after that", Value: float64(after) / 1e6, Unit: "MB"})
	return err
}

// turn mints and revokes the keys of one round.
func (e estate) turn(round int) (err error) {
	l, err := e.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	err = every(e.keys, func(i int) error {
		spec := &record.Key{
			Name: fmt.Sprintf("run %d", i), Upstream: "openai", Custody: record.CustodyHeld, Owner: fmt.Sprintf("owner-%d", i%owners),
			Limit: record.NoLimits(),
		}
		spec.Limit[record.Activations] = 500
		_, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: e.lookup(round*e.keys + i)})
		return err
	})
	if err != nil {
		return err
	}
	j, err := l.RevokeMany(limiter.Operator, limiter.Filter{}, true, "bench")
	if err != nil {
		return err
	}
	if _, err := l.Await(context.Background(), limiter.Operator, j.Number); err != nil {
		return err
	}
	ended := time.Now().Unix() // retention has a resolution of one second
	if err := until("the clock stands still", func() (bool, error) { return time.Now().Unix() > ended, nil }); err != nil {
		return err
	}
	l.Retain(time.Nanosecond)
	if err := forgotten(l); err != nil {
		return err
	}
	l.KeepAudit(time.Nanosecond)
	return until("the audit log is not pruned", func() (bool, error) {
		page, err := l.Audit(context.Background(), limiter.Operator, audit.Filter{Limit: 10})
		return len(page.Entries) < 10, err
	})
}

// forgotten waits until no revoked key is listed.
func forgotten(l *limiter.Limiter) error {
	return until("ended keys are not forgotten", func() (bool, error) { return l.Stats().Keys[record.Revoked] == 0, nil })
}

func until(otherwise string, fn func() (bool, error)) error {
	for deadline := time.Now().Add(30 * time.Minute); ; time.Sleep(100 * time.Millisecond) { // between two looks
		done, err := fn()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(otherwise)
		}
	}
}

// turnOver mints, revokes and deletes keys several times, in a store of its own:
// deleted keys must leave the files.
func (e estate) turnOver(say func(measured)) (err error) {
	e.dir, e.keys = filepath.Join(e.dir, "turnover"), max(e.keys/20, 1)
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(e.dir)) }()
	const rounds = 5
	var first, last int64
	for round := range rounds {
		if err := e.turn(round); err != nil {
			return err
		}
		if last, err = sizeOf(e.dir); err != nil {
			return err
		}
		if round == 0 {
			first = last
		}
	}
	say(measured{Name: fmt.Sprintf("store after %d keys came and went", e.keys), Value: float64(first) / 1e6, Unit: "MB"})
	say(measured{Name: fmt.Sprintf("store after that %d times", rounds), Value: float64(last) / 1e6, Unit: "MB"})
	return nil
}

func request(l *limiter.Limiter, lookup token.Lookup) error {
	k, refusal := l.Find(context.Background(), lookup)
	if refusal != nil {
		return refusal
	}
	g := new(limiter.Grant)
	ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/chat/completions"}
	if refusal := k.Reserve(context.Background(), &ask, g); refusal != nil {
		return refusal
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return nil
}

// page requests up to twenty consecutive pages and returns the median time of one.
func page(l *limiter.Limiter, f limiter.Filter) (time.Duration, error) {
	f.Limit = 50
	var took []time.Duration
	for range 20 {
		began := time.Now()
		p, err := l.List(context.Background(), limiter.Operator, f)
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
		if f.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
