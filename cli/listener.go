package cli

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A command that is given no address calls Caddy's default address, an unprivileged port of
// loopback: any user of this machine can listen there while Caddy does not. Real keys are
// sent to the listener, and its answers are believed. So such a call first looks who owns
// the listener. An address that was given is not examined.

// packagedUser is the user that Caddy's packages and init/till.service run it as.
const packagedUser = "caddy"

// dialLocalhost dials, and for the name localhost it dials 127.0.0.1, where Caddy listens
// for that name. The resolver prefers ::1, at which somebody else may listen; that is
// dialled only if nobody listens at the other.
func dialLocalhost(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second}
	host, port, err := net.SplitHostPort(address)
	if err != nil || !strings.EqualFold(host, "localhost") {
		return d.DialContext(ctx, network, address)
	}
	conn, err := d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	if nobodyListens(err) {
		if other, otherErr := d.DialContext(ctx, network, net.JoinHostPort("::1", port)); otherErr == nil {
			return other, nil
		}
	}
	return conn, err
}

// nobodyListens reports whether a connection was refused. After any other error there may be
// a listener that others keep too busy to answer.
func nobodyListens(err error) bool {
	const refusedByWindows = syscall.Errno(10061) // WSAECONNREFUSED; there ECONNREFUSED is a number of Go's own
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, refusedByWindows)
}

// dialTrusted dials, and ends a connection on loopback if an untrusted user listens
// there. It looks once it is connected, before anything is sent: before that, somebody
// else could still take the port.
func dialTrusted(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := dialLocalhost(ctx, network, address)
	if err != nil {
		return nil, err
	}
	to, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err == nil && to.Addr().IsLoopback() {
		err = trusted(to, address)
	}
	if err != nil {
		_ = conn.Close() // nothing was sent
		return nil, err
	}
	return conn, nil
}

// strangerError says that nothing was sent because of who listens.
type strangerError struct{ who, address string }

func (e *strangerError) Error() string {
	return fmt.Sprintf("%s listens at %s, so nothing was sent there: unless an address is given, only servers of root, of the user %s and of your own are called; "+
		"if it is your server, say so with --address %s or TILL_ADDRESS, and if your server's admin endpoint is a socket, with TILL_ADDRESS=unix//PATH",
		e.who, e.address, packagedUser, e.address)
}

// trusted returns an error if an untrusted user listens at an address of this machine,
// or if no listener can be seen. Where the system has no tables of sockets, or does not
// show them, nothing can be known, and nothing is refused.
func trusted(to netip.AddrPort, address string) error {
	var all []listener
	for i, path := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		table, err := os.Open(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && i > 0: // there is no IPv6 here
			continue
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return nil
		case err != nil:
			return err
		}
		found, err := listenersIn(table)
		if err = errors.Join(err, table.Close()); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		all = append(all, found...)
	}
	return checkListeners(accepting(to, all), trustedUsers(os.Geteuid(), everyUserHasANumber()), address)
}

// everyUserHasANumber reports whether no users of this machine are outside this process's
// user namespace: see user_namespaces(7).
func everyUserHasANumber() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

// trustedUsers returns the users whose servers a caller trusts. unique says that no two
// users share a number.
func trustedUsers(caller int, unique bool) []int {
	own := []int{0, caller}
	if packaged, err := user.Lookup(packagedUser); err == nil {
		if uid, err := strconv.Atoi(packaged.Uid); err == nil {
			own = append(own, uid)
		}
	}
	if unique {
		return own
	}
	// The kernel's tables name every user of another namespace by one number.
	overflow := 65534
	if text, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		if uid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			overflow = uid
		}
	}
	return slices.DeleteFunc(own, func(uid int) bool { return uid == overflow })
}

// checkListeners returns an error unless every listener belongs to one of the users in
// own.
func checkListeners(listeners []listener, own []int, address string) error {
	if len(listeners) == 0 { // it has gone already, or is not of this machine
		return &strangerError{"somebody who cannot be seen here", address}
	}
	for _, l := range listeners {
		if slices.Contains(own, l.uid) {
			continue
		}
		return &strangerError{userName(l.uid), address}
	}
	return nil
}

// userName is how messages name a user.
func userName(uid int) string {
	if known, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("user %d (%s)", uid, known.Username)
	}
	return fmt.Sprintf("user %d", uid)
}

// listener is a socket that accepts connections, and who opened it.
type listener struct {
	at  netip.AddrPort
	uid int
}

// accepting returns the listeners to which the kernel may give a connection to an
// address: those at the address itself, and if there are none, those at any address.
func accepting(to netip.AddrPort, all []listener) []listener {
	var there, anywhere []listener
	for _, l := range all {
		switch addr := l.at.Addr().Unmap(); {
		case l.at.Port() != to.Port():
		case addr == to.Addr().Unmap():
			there = append(there, l)
		case addr.IsUnspecified() && (addr.Is6() || to.Addr().Unmap().Is4()):
			anywhere = append(anywhere, l)
		}
	}
	if len(there) > 0 {
		return there
	}
	return anywhere
}

// listenersIn reads the listeners in a table of sockets: /proc/self/net/tcp or tcp6, in the
// format of proc_pid_net(5). /proc/net is a link to /proc/self/net, which is missing where
// /proc shows only processes (ProcSubset=pid).
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//	 0: 0100007F:07E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 20735 …
func listenersIn(table io.Reader) (all []listener, err error) {
	const listening = "0A"
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 || fields[3] != listening {
			continue
		}
		at, err := parseSocketAddress(fields[1])
		if err != nil {
			return nil, err
		}
		uid, err := strconv.Atoi(fields[7])
		if err != nil {
			return nil, err
		}
		all = append(all, listener{at, uid})
	}
	return all, lines.Err()
}

// parseSocketAddress reads an address of the kernel's tables: words of 32 bits in the
// machine's byte order, and a port.
func parseSocketAddress(text string) (at netip.AddrPort, err error) {
	words, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(words)
	if err != nil {
		return at, err
	}
	for word := raw; len(word) >= 4; word = word[4:] {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return at, fmt.Errorf("%q is no address", text)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(number)), err
}
