//go:build unix

package postgrestest

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// serverUser is the user that the server runs as: PostgreSQL refuses root.
func serverUser() (uid, gid int, other bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil {
			return uid, gid, true
		}
	}
	return 65534, 65534, true
}

func asServer() *syscall.SysProcAttr {
	// A group of its own: Ctrl-C is for the test, which ends the server.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if uid, gid, other := serverUser(); other {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return attr
}

// own gives a file to the server's user.
func own(path string) error {
	if uid, gid, other := serverUser(); other {
		return os.Chown(path, uid, gid)
	}
	return nil
}

// longestDir leaves room for the name of a socket, whose path may have 103 bytes.
const longestDir = 80

// makeDir makes a directory that the server's user can reach, with a short name.
func makeDir() (string, error) {
	parent := os.TempDir()
	if len(parent) > longestDir || !reachable(parent) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "pg")
	if err != nil {
		return "", err
	}
	return dir, own(dir)
}

// reachable reports whether another user may enter a directory.
func reachable(dir string) bool {
	if _, _, other := serverUser(); !other {
		return true
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		up := filepath.Dir(dir)
		if up == dir {
			return true
		}
		dir = up
	}
}
