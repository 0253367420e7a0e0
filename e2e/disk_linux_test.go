package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// mounted mounts a filesystem for the test, or skips it, loudly: this takes root
// and a kernel that allows it.
func mounted(t *testing.T, dir string, args ...string) {
	t.Helper()
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, AND NOT SHOWN: mounting is not permitted here: mount %s: %v %s", strings.Join(args, " "), err, out)
	}
	t.Cleanup(func() { unmount(t, dir) })
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil && !strings.Contains(string(out), "not mounted") {
		t.Errorf("umount %s: %v %s", dir, err, out)
	}
}

// ext4 is a filesystem in a file, mounted at a directory.
type ext4 struct{ image, dir string }

func newExt4(t *testing.T, dir string) ext4 {
	t.Helper()
	d := ext4{filepath.Join(t.TempDir(), "disk"), dir}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 512<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", d.image).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, AND NOT SHOWN: no mkfs.ext4: %v %s", err, out)
	}
	mounted(t, dir, "-o", "loop", d.image)
	return d
}

// mountAgain is for a disk whose power was cut.
func (d ext4) mountAgain(s *server) {
	s.t.Helper()
	unmount(s.t, d.dir)
	s.eventually("nobody has the disk any more", func() bool {
		loops, err := exec.Command("losetup", "-j", d.image).Output()
		if err != nil {
			s.t.Fatal("looking for who has the disk: ", err)
		}
		return len(loops) == 0
	})
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		s.t.Fatalf("mounting again: %v %s", err, out)
	}
}

// cutPower lets a filesystem reach its disk no more, as if the power went: what
// was not synced stays in the memory of a kernel that nobody asks any more. With
// the log, what the journal had begun still gets there.
func cutPower(t *testing.T, dir string, withLog bool) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const shutdown = 0x8004587d // FS_IOC_SHUTDOWN
	how := uint32(2)            // without the log
	if withLog {
		how = 1
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Skipf("SKIPPED, AND NOT SHOWN: this filesystem cannot be cut off: %v", errno)
	}
}

// gone ends the server's process, which may have ended by itself.
func (s *server) gone() {
	s.t.Helper()
	s.mu.Lock()
	cmd := s.cmd
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}

// TestTorturePowerCuts cuts the power of a real ext4 under a busy server, again
// and again, and starts the server on what its journal makes of that.
func TestTorturePowerCuts(t *testing.T) {
	t.Parallel()
	weighs(t, heavyWeight)
	disk := newExt4(t, t.TempDir())
	f := newFleet(t, filepath.Join(disk.dir, "store"))
	cuts := tortureSize(t, 2, 10)
	for range cuts {
		home := f.clients(true)
		enough := f.forwarded.Load() + 1 + f.random(300)
		f.eventually("requests go through", func() bool { return f.forwarded.Load() >= enough || f.spent() })
		cutPower(t, disk.dir, f.random(2) == 0)
		f.gone()
		home()
		disk.mountAgain(f.server)
		f.start()
		f.strange.Store(nil) // the disk was gone for the last of them
		f.replace()
	}
	limit, forwarded, unanswered := f.drain()
	extra, forfeits := int64(0), int64(0)
	for _, m := range f.all {
		n := m.forwarded.Load()
		if extra += max(n-m.limit, 0); n > m.limit {
			t.Errorf("key %s of %d activations forwarded %d", m.id, m.limit, n)
		}
		lost := m.limit - n
		if most := m.unanswered.Load() + int64(cuts)*128; lost > most {
			t.Errorf("key %s of %d activations forwarded %d: more than %d are forfeit", m.id, m.limit, n, most)
		}
		forfeits += max(lost, 0)
	}
	t.Logf("%d power cuts, %d keys: forwarded %d of %d, %d in flight; %d extra, %d forfeit", cuts, len(f.all), forwarded, limit, unanswered, extra, forfeits)
}

// fill takes all but some bytes of a filesystem.
func fill(t *testing.T, dir string, leave int64) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := int64(s.Bavail)*int64(s.Bsize) - leave; n > 0 { //nolint:unconvert // the types differ by system
		err := syscall.Fallocate(int(f.Fd()), 0, 0, n)
		for ; errors.Is(err, syscall.ENOSPC) && n > 0; n -= 64 << 10 { // somebody else was quicker
			err = syscall.Fallocate(int(f.Fd()), 0, 0, n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *server) refusesForTheDisk(key string) bool {
	status, answer := s.sends(key)
	return status == http.StatusServiceUnavailable && strings.Contains(answer, "till_store_unavailable")
}

// TestAFullDiskIsSurvivedAndHeals fills a real filesystem under a running
// server, and before one starts.
func TestAFullDiskIsSurvivedAndHeals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mounted(t, dir, "-t", "tmpfs", "-o", "size=400m", "tmpfs")
	f := newFleet(t, filepath.Join(dir, "store"))
	id, key := f.mint(object{"max_activations": 5})
	filler := filepath.Join(dir, "filler")
	for _, leave := range []int64{60 << 20, 1 << 20, 256 << 10} {
		home := f.clients(false)
		enough := f.forwarded.Load() + 200
		f.eventually("requests go through", func() bool { return f.forwarded.Load() >= enough || f.spent() })
		fill(t, dir, leave)
		f.eventually("what needs the disk is refused", func() bool { return f.refusesForTheDisk(key) })
		if status, stats := f.api("GET", "/stats", nil); status != http.StatusOK {
			t.Errorf("stats: %d %v", status, stats)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		f.eventually("it works again", func() bool { return f.chat(key) != http.StatusServiceUnavailable })
		home()
		f.strange.Store(nil) // they were refused for the disk
		f.replace()
		if status, answer := f.api("POST", "/keys/"+id+"/grant", object{"activations": 5}); status != http.StatusOK {
			t.Fatal(status, answer)
		}
	}
	// A server that starts on a full disk is up, and opens the store later.
	f.stop()
	fill(t, dir, 1<<20)
	f.startUp()
	if !f.refusesForTheDisk(key) {
		t.Error("a request is not refused for the disk")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.eventually("it works again", func() bool { return f.chat(key) == http.StatusOK })
	limit, forwarded, _ := f.drain()
	if forwarded != limit {
		t.Errorf("%d forwarded of %d: a full disk forfeits nothing", forwarded, limit)
	}
}

// startUp runs Caddy without waiting for its store.
func (s *server) startUp() {
	s.t.Helper()
	s.launch()
	s.eventually("Caddy answers", func() bool {
		res, err := s.client.Get("http://" + s.admin + "/config/")
		if err != nil {
			return false
		}
		return res.Body.Close() == nil && res.StatusCode == http.StatusOK
	})
}

func TestAReadOnlyStoreRefusesAndHeals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mounted(t, dir, "-t", "tmpfs", "-o", "size=400m", "tmpfs")
	s := newServer(t, options{store: filepath.Join(dir, "store")})
	_, key := s.mint(object{"max_activations": 5})
	if status := s.chat(key); status != http.StatusOK {
		t.Fatal(status)
	}
	s.stop()
	remount := func(how string) {
		t.Helper()
		if out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	remount("ro")
	s.startUp()
	if !s.refusesForTheDisk(key) {
		t.Error("admitted on a disk that cannot be written")
	}
	s.eventually("stats say why", func() bool { // not while the store is being opened
		status, answer := s.api("GET", "/stats", nil)
		if status != http.StatusServiceUnavailable {
			t.Fatalf("stats: %d %v", status, answer)
		}
		return strings.Contains(answer["error"].(object)["message"].(string), "read-only")
	})
	remount("rw")
	for i := range 4 {
		s.eventually("it works again", func() bool { return s.chat(key) == http.StatusOK || i > 0 })
	}
}

// TestAStoreMovedAwayUnderARunningServerRefusesAndHeals: an operator moves the
// directory before stopping the server.
func TestAStoreMovedAwayUnderARunningServerRefusesAndHeals(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	// As long as the server has not noticed, each look uses one.
	_, key := s.mint(object{"max_activations": 1_000_000})
	if status := s.chat(key); status != http.StatusOK {
		t.Fatal(status)
	}
	away := s.store() + ".old"
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(s.store(), away)
	s.eventually("keys are refused", func() bool { return s.refusesForTheDisk(key) })
	if status, answer := s.api("GET", "/stats", nil); status != http.StatusOK || !strings.Contains(fmt.Sprint(answer["store_failure"]), s.store()) {
		t.Errorf("stats: %d %v", status, answer)
	}
	if status, answer := s.api("POST", "/lockdown", object{}); status != http.StatusOK || answer["durable"] != false {
		t.Errorf("lockdown: %d %v", status, answer)
	}
	if status, _ := s.api("DELETE", "/lockdown", nil); status != http.StatusOK {
		t.Errorf("lifting it: %d", status)
	}
	move(away, s.store())
	s.eventually("it works again", func() bool { return s.chat(key) == http.StatusOK })
	move(s.store(), away)
	s.eventually("keys are refused", func() bool { return s.refusesForTheDisk(key) })
	s.stop() // within the test's patience
	if _, err := os.Stat(s.store()); !os.IsNotExist(err) {
		t.Errorf("something was made in its place: %v", err)
	}
	move(away, s.store())
	s.start()
	if status := s.chat(key); status != http.StatusOK {
		t.Errorf("in its place, started anew: %d", status)
	}
}
