package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

type transaction = committest.Transaction

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// writer is a process that writes the log.
type writer struct {
	*committest.Committer
	log audit.Log
}

// newWriter starts one, which knows the end of the log as it is now.
func newWriter(t *testing.T, s store.Store) *writer {
	t.Helper()
	w := new(writer)
	if err := s.View(func(r store.Reader) error {
		head, err := audit.ReadChain(r)
		w.log.Follow(head)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.Committer = committest.Start(t, s, func(o *committest.Options) { o.Participants = []commit.Participant{&w.log} })
	return w
}

// act writes entries in one transaction.
func (w *writer) act(t *testing.T, actors ...string) {
	t.Helper()
	if err := w.Do(w.entries(actors...), nil); err != nil {
		t.Fatal(err)
	}
}

// entries are written so many minutes past noon as their actor's number says.
func (w *writer) entries(actors ...string) func(transaction) error {
	return func(tx transaction) error {
		for _, actor := range actors {
			at := noon.Add(time.Duration(actor[len(actor)-1]-'0') * time.Minute)
			if err := w.log.Add(tx, at, &audit.Entry{Actor: actor, Action: audit.ActKeyCreate, Key: "key_1"}); err != nil {
				return err
			}
		}
		return nil
	}
}

// chain reads the whole log and verifies it against the head that the store knows.
func chain(t *testing.T, s interface {
	View(func(store.Reader) error) error
}) (actors []string, head audit.Chain) {
	t.Helper()
	var export bytes.Buffer
	err := s.View(func(r store.Reader) (err error) {
		if head, err = audit.ReadChain(r); err != nil {
			return err
		}
		return r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
			e, err := audit.ParseLine(line)
			actors = append(actors, e.Text("actor"))
			fmt.Fprintf(&export, "%s\n", line)
			return err == nil, err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.Verify(&export, &head.Hash)
	if err != nil || v.Head != head.Hash || v.Entries != int64(len(actors)) {
		t.Errorf("the log verifies as %+v, %v; its head is %+v", v, err, head)
	}
	return actors, head
}

func TestTwoNodesWriteOneChain(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster()
	c.Rehearse()
	a, b := newWriter(t, c.Bystander(t, "a")), newWriter(t, c.Bystander(t, "b"))
	a.act(t, "a1")
	b.act(t, "b1", "b2")
	b.act(t, "b3")
	a.act(t, "a2")
	actors, head := chain(t, c)
	if got := strings.Join(actors, " "); got != "a1 b1 b2 b3 a2" || head.Seq != 5 {
		t.Errorf("the log has %s and ends with entry %d", got, head.Seq)
	}
	if known := a.log.Known(); known != head {
		t.Errorf("who wrote last knows of %+v", known)
	}
	if known := b.log.Known(); known.Seq != 4 {
		t.Errorf("who did not knows of %+v", known)
	}
}

// TestTwoNodesThatWriteAtOnceDoNotForkTheChain lets both write as fast as they can.
func TestTwoNodesThatWriteAtOnceDoNotForkTheChain(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster()
	const each = 50
	done := make(chan error, 2*each)
	for _, name := range []string{"a", "b"} {
		w := newWriter(t, c.Bystander(t, name))
		for i := range each {
			w.Submit(w.entries(fmt.Sprint(name, i)), func(err error) { done <- err })
		}
	}
	for range 2 * each {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	actors, head := chain(t, c)
	if len(actors) != 2*each || head.Seq != 2*each {
		t.Errorf("%d entries, the last is %d", len(actors), head.Seq)
	}
}

func TestABatchWithoutAnEntryReadsNoHead(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster()
	s := reading{c.Bystander(t, "a"), new(int)}
	w := newWriter(t, s)
	write := func(tx transaction) error { return tx.Set([]byte("x"), nil) }
	if err := w.Do(write, nil); err != nil {
		t.Fatal(err)
	}
	if *s.reads != 0 {
		t.Errorf("it was read %d times", *s.reads)
	}
	w.act(t, "a1", "a2")
	if *s.reads != 1 {
		t.Errorf("for two entries it was read %d times", *s.reads)
	}
}

// reading counts how often transactions read the end of the log.
type reading struct {
	store.Shared
	reads *int
}

func (s reading) Update(fn func(store.Tx) error) error {
	return s.Shared.Update(func(tx store.Tx) error { return fn(readingTx{tx, s.reads}) })
}

type readingTx struct {
	store.Tx
	reads *int
}

func (t readingTx) Get(key []byte) ([]byte, error) {
	if bytes.Equal(key, record.MetaAudit) {
		*t.reads++
	}
	return t.Tx.Get(key)
}

func TestAnActThatFailsLeavesNoGap(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	c := storetest.NewCluster()
	for name, s := range map[string]store.Store{"alone": storetest.NewDisk().Open(), "shared": c.Bystander(t, "a")} {
		t.Run(name, func(t *testing.T) {
			w := newWriter(t, s)
			w.act(t, "first")
			err := w.Do(func(tx transaction) error { return errors.Join(w.entries("failed")(tx), wrong) }, nil)
			if !errors.Is(err, wrong) {
				t.Fatal(err)
			}
			w.act(t, "second")
			if actors, head := chain(t, s); strings.Join(actors, " ") != "first second" || head.Seq != 2 {
				t.Errorf("the log has %q and ends with entry %d", actors, head.Seq)
			}
		})
	}
}

// prune removes the entries from before a time.
func (w *writer) prune(t *testing.T, before time.Time) {
	t.Helper()
	err := w.Do(func(tx transaction) error {
		_, err := w.log.Prune(tx, noon.Add(time.Hour), before, "pruner")
		return err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAChainThatOneNodePrunesGoesOnAtTheOther(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster()
	c.Rehearse()
	a, b := newWriter(t, c.Bystander(t, "a")), newWriter(t, c.Bystander(t, "b"))
	a.act(t, "a1", "a2", "a3")
	b.prune(t, noon.Add(3*time.Minute))
	a.act(t, "a4")
	a.prune(t, noon.Add(4*time.Minute))
	b.act(t, "b1")
	actors, head := chain(t, c)
	if got := strings.Join(actors, " "); got != "pruner a4 pruner b1" || head.Seq != 7 {
		t.Errorf("the log has %s; its ends are %+v", got, head)
	}
	err := c.View(func(r store.Reader) error {
		v, err := audit.VerifyStored(t.Context(), r)
		if v.First != 4 || v.Entries != 4 {
			t.Errorf("it verifies as %+v", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestALogThatIsShorterThanWasKnownIsInDoubt(t *testing.T) {
	t.Parallel()
	c := storetest.NewCluster()
	s := c.Bystander(t, "a")
	w := newWriter(t, s)
	w.act(t, "a1", "a2")
	err := s.Update(func(tx store.Tx) error { // as a copy from before would
		return errors.Join(tx.Delete(record.MetaAudit), tx.Delete(audit.EntryKey(1)), tx.Delete(audit.EntryKey(2)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Do(w.entries("a3"), nil); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("it is answered %v", err)
	}
	if !errors.Is(w.Failure(), store.ErrDoubt) {
		t.Errorf("it has failed: %v", w.Failure())
	}
}

func TestAHeadThatWasReadReplacesOnlyAnEarlierOne(t *testing.T) {
	t.Parallel()
	var log audit.Log
	for _, step := range []struct{ read, known uint64 }{{3, 3}, {5, 5}, {4, 5}, {5, 5}, {6, 6}} {
		log.Follow(audit.Chain{Seq: step.read})
		if got := log.Known().Seq; got != step.known {
			t.Errorf("after reading %d it knows of %d, want %d", step.read, got, step.known)
		}
	}
}

func TestTheEndOfALogIsChecked(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(tx store.Tx) error{
		"it is missing": func(tx store.Tx) error { return tx.Delete(audit.EntryKey(2)) },
		"it is another": func(tx store.Tx) error {
			line, err := tx.Get(audit.EntryKey(1))
			return errors.Join(err, tx.Set(audit.EntryKey(2), line))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			s := disk.Open()
			newWriter(t, s).act(t, "1", "2")
			if err := s.Update(damage); err != nil {
				t.Fatal(err)
			}
			err := s.View(func(r store.Reader) error {
				if head, err := audit.ReadHead(r); err != nil || head.Seq != 2 {
					t.Errorf("the head is %+v, %v", head, err)
				}
				_, err := audit.ReadChain(r)
				return err
			})
			if !errors.Is(err, store.ErrDoubt) {
				t.Errorf("reading the chain: %v", err)
			}
		})
	}
}
