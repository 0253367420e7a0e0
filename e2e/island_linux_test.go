package e2e

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// island is a network of its own in which some addresses of loopback lead to the
// same addresses here, and nothing else leads anywhere. Commands that run on it
// can reach nobody but the tests, and whose names they ask for is written down.
type island struct {
	do    chan func()
	apart bool // false where the system does not let us

	mu    sync.Mutex
	asked []string
}

// newIsland needs the rights of root; without them, commands run as usual. Its
// thread is never given up: the kernel would end what was started on it before,
// which is to end with its parent.
func newIsland(t *testing.T) *island {
	t.Helper()
	i := &island{do: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if i.apart = err == nil; errors.Is(err, unix.EPERM) {
			err = nil
		}
		if i.apart {
			err = i.settle(t)
		}
		made <- err
		for f := range i.do {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatal("a network of its own: ", err)
	}
	return i
}

// settle runs on the island's thread.
func (i *island) settle(t *testing.T) error {
	if err := raise("lo", netip.Addr{}); err != nil {
		return err
	}
	config, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	for n, line := range strings.Split(string(config), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		server, err := netip.ParseAddr(fields[1])
		if err != nil || !server.Is4() {
			continue // no route leads there
		}
		if !server.IsLoopback() {
			if err := raise("lo:"+string(rune('1'+n%9)), server); err != nil {
				return err
			}
		}
		p, err := net.ListenPacket("udp", netip.AddrPortFrom(server, 53).String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = p.Close() })
		go i.names(p)
	}
	return nil
}

// raise puts up an interface, with an address unless it has one.
func raise(name string, address netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if address.IsValid() {
		if err := r.SetInet4Addr(address.AsSlice()); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r)
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// ferry passes on what comes to the island's side of an address.
func ferry(l net.Listener, to string) {
	for {
		here, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer here.Close()
			there, err := net.Dial("tcp", to)
			if err != nil {
				return // who asks sees it closed
			}
			defer there.Close()
			var wg sync.WaitGroup
			for _, way := range [][2]net.Conn{{there, here}, {here, there}} {
				wg.Go(func() {
					_, _ = io.Copy(way[0], way[1]) // an end is an end
					_ = way[0].(*net.TCPConn).CloseWrite()
				})
			}
			wg.Wait()
		}()
	}
}

// names answers that there is no such name, and remembers which it was.
func (i *island) names(p net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil {
			continue
		}
		i.mu.Lock()
		for _, q := range m.Questions {
			if name := strings.TrimSuffix(q.Name.String(), "."); !slices.Contains(i.asked, name) {
				i.asked = append(i.asked, name)
			}
		}
		i.mu.Unlock()
		m.Response, m.RCode, m.Additionals = true, dnsmessage.RCodeNameError, nil
		if answer, err := m.Pack(); err == nil {
			_, _ = p.WriteTo(answer, from) // it asks again
		}
	}
}

// open lets an address lead to the same address here.
func (i *island) open(t *testing.T, address string) {
	t.Helper()
	if !i.apart {
		return
	}
	var l net.Listener
	var err error
	i.on(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go ferry(l, address)
}

// on runs f on the island's thread.
func (i *island) on(f func()) {
	done := make(chan struct{})
	i.do <- func() {
		defer close(done)
		f()
	}
	<-done
}

// start starts a command on the island.
func (i *island) start(cmd *exec.Cmd) (err error) {
	i.on(func() { err = cmd.Start() })
	return err
}

// hosts are the names that were asked for, since the island was made.
func (i *island) hosts() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.asked)
}
