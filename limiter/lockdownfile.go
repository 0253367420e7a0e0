package limiter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// lockdownRetry is the time between two attempts to write the file.
const lockdownRetry = 5 * time.Second

// maxLockdownFile bounds what is read of the file, in bytes.
const maxLockdownFile = 4096

// Recall reads, the first time it is called, whether a lockdown was in force
// when the server ended. One that cannot be read counts as in force.
func (d *Lockdown) Recall() {
	if !d.read.Load() {
		d.inTurn(d.recall) // at the latest before a Limiter serves: see join
	}
}

func (d *Lockdown) recall() {
	if d.read.Load() {
		return
	}
	defer d.read.Store(true)
	d.recallActs()
	b, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	// Other nodes that share the store do not know of an act that is not yet written there.
	s := &LockedDown{Durable: !d.shared.Load() || d.owed.Load() == 0}
	if err == nil && len(b) > maxLockdownFile {
		err = fmt.Errorf("%w: %d bytes", record.ErrRecord, len(b))
	}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		s.Reason = "the file of a lockdown could not be read"
		d.log.Error("the file of a lockdown could not be read, so every key is refused; lift it with: caddy till lockdown --lift", "file", d.path, "error", err)
	}
	d.state.Store(s)
	d.log.Warn("every key is refused: a lockdown is in force", "since", s.Since, "by", s.By, "reason", s.Reason)
}

// write makes the state durable. It does not create the store's directory: a missing one
// was moved away, and may come back. Callers have the turn.
func (d *Lockdown) write(s *LockedDown) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	next := d.path + ".new"
	if err := store.WriteSynced(next, b); err != nil {
		return errors.Join(err, removeIfThere(next))
	}
	if err := os.Rename(next, d.path); err != nil {
		return err
	}
	if err := store.SyncDir(filepath.Dir(d.path)); err != nil {
		return err
	}
	if !d.shared.Load() {
		d.isDurable(s)
	}
	return nil
}

// isDurable notes that a lockdown survives a restart. One that has replaced it notes that
// itself.
func (d *Lockdown) isDurable(s *LockedDown) {
	durable := *s
	durable.Durable = true
	d.state.CompareAndSwap(s, &durable)
}

// tryAgain writes the file as soon as that is possible.
func (d *Lockdown) tryAgain(stop chan struct{}) {
	tick := time.NewTicker(lockdownRetry)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		d.turn <- struct{}{}
		if d.retry == stop { // otherwise another goroutine has taken over
			if s := d.state.Load(); s == nil { // another node has lifted it
				d.forgetFile()
			} else if err := d.write(s); err == nil {
				d.retry = nil
				d.log.Info("the lockdown is durable now")
			}
		}
		done := d.retry != stop
		<-d.turn
		if done {
			return
		}
	}
}

// endRetry ends tryAgain. Callers have the turn.
func (d *Lockdown) endRetry() {
	if d.retry != nil {
		close(d.retry)
		d.retry = nil
	}
}

// removeFile makes it certain that a restart finds no lockdown. Callers have the turn.
func (d *Lockdown) removeFile() error {
	if err := removeIfThere(d.path); err != nil {
		return err
	}
	if err := store.SyncDir(filepath.Dir(d.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := removeIfThere(d.path + ".new"); err != nil {
		d.log.Error("what is left of an attempt to write the file of a lockdown stays; nothing reads it", "error", err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
