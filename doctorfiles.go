package till

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// filePlaceholder matches a placeholder for the content of a file.
var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// filesIn lists the files that texts of the configuration name.
func filesIn(texts ...string) (paths []string) {
	for _, text := range texts {
		for _, m := range filePlaceholder.FindAllStringSubmatch(text, -1) {
			paths = append(paths, m[1])
		}
	}
	return paths
}

// literal reports whether the configuration itself contains a secret.
func literal(text string) bool {
	return text != "" && !strings.Contains(text, "{env.") && !strings.Contains(text, "{file.")
}

// modeOf returns a file's permissions, and false if they cannot be read.
func modeOf(path string) (fs.FileMode, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	return info.Mode().Perm(), true
}

// diagnoseFiles finds files that others can read or change, and files in places that
// defeat their purpose.
func (a *App) diagnoseFiles(d *diagnosis) {
	server := a.serverUser()
	replaceable := func(path, what string) {
		if info, err := os.Stat(path); err == nil { // a missing file is reported elsewhere
			d.foreign(server, path, info, "%s, %s, belongs to user %d, who can change it, whatever its mode", path, what)
		}
		for at, dir := path, filepath.Dir(path); dir != at; at, dir = dir, filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				continue
			}
			if d.foreign(server, dir, info, "%s, where %s is, belongs to user %d, who can remove or replace it", dir, what) {
				return
			}
			// In a sticky directory, such as /tmp, nobody can move the files of others.
			if mode := info.Mode(); mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0 {
				d.error("writable_file", "chmod o-w "+dir, "%s, where %s is, has mode %04o: others can remove or replace it", dir, what, mode.Perm())
				return
			}
		}
	}
	secret := func(path, what string) {
		replaceable(path, what)
		switch mode, ok := modeOf(path); {
		case !ok:
		case mode&0o007 != 0:
			d.error("readable_file", "chmod 600 "+path, "%s, %s, has mode %04o: every user of this machine can open it", path, what, mode)
		case mode&0o070 != 0:
			d.warn("readable_file", "chmod 600 "+path, "%s, %s, has mode %04o: its group can open it", path, what, mode)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Upstreams)) {
		for _, path := range filesIn(a.Upstreams[name].Credential) {
			secret(path, "the credential of upstream "+name)
		}
	}
	for _, hook := range a.Webhooks {
		for _, path := range filesIn(hook.Secrets...) {
			secret(path, "the secret of a webhook")
		}
	}
	sealKeys := a.sealFiles()
	for _, path := range sealKeys {
		secret(path, "the seal key")
	}
	if a.PricesFile != "" {
		replaceable(a.PricesFile, "the file of prices")
	}
	if mode, ok := modeOf(a.PricesFile); ok && mode&0o022 != 0 {
		d.error("writable_file", "chmod 644 "+a.PricesFile, "%s, which limits in dollars count with, has mode %04o: others can change prices", a.PricesFile, mode)
	}
	if a.database != nil {
		for _, path := range filesIn(a.database.DSN, a.database.Listen) {
			secret(path, "the address of the database")
		}
		replaceable(nodeFile(), "what this node remembers")
		a.diagnoseDatabase(d)
	}
	store, ok := a.storage.(*BadgerStore)
	if !ok {
		return
	}
	replaceable(store.Path, "the store")
	if mode, ok := modeOf(store.Path); ok && mode&0o077 != 0 {
		d.error("readable_file", "chmod 700 "+store.Path, "the store's directory %s has mode %04o: others can open it", store.Path, mode)
	}
	o := a.storeOptions()
	anchor := o.anchorOf(store.Place())
	secret(anchor, "the anchor")
	if same, known := sameVolume(existing(store.Path), existing(filepath.Dir(anchor))); known && same {
		d.warn("anchor_place", "stop the server, move "+anchor+" there, in the till block: anchor /mnt/other-volume/till.anchor, and in the systemd unit: ReadWritePaths=/mnt/other-volume",
			"the anchor is on the same volume as the store, so a rollback of that volume cannot be seen")
	}
	for _, path := range sealKeys {
		if beside(path, store.Path) {
			d.warn("seal_key_place", "move it to another directory that is not backed up with the store: seal_key {file./etc/till/seal.key}",
				"the seal key %s is beside the store %s: whoever gets a copy of both opens sealed keys", path, store.Path)
		}
	}
}

// foreign reports a file or a directory that belongs to somebody other than root and the
// user of the server: an owner can change its content and its mode at any time. format
// takes its path, what it is, and its owner.
func (d *diagnosis) foreign(server int, path string, info fs.FileInfo, format, at, what string) bool {
	uid, known := ownerOf(info)
	if !known || uid == 0 || uid == server {
		return false
	}
	d.error("writable_file", fmt.Sprintf("chown %d %s", server, path), format, at, what, uid)
	return true
}

// serverUser returns the user that the server runs as. Root may diagnose the
// configuration of another user, to whom the store then belongs.
func (a *App) serverUser() int {
	if info, err := os.Stat(a.storage.Place().Dir); err == nil && os.Geteuid() == 0 {
		if uid, known := ownerOf(info); known {
			return uid
		}
	}
	return os.Geteuid()
}

// sealFiles lists the files with seal keys.
func (a *App) sealFiles() []string {
	if !a.sealing.named {
		return []string{a.sealing.file}
	}
	return filesIn(a.SealKeys...)
}

// beside reports whether a file is in a directory or next to it.
func beside(file, dir string) bool {
	parent := filepath.Dir(file)
	if real, err := filepath.EvalSymlinks(parent); err == nil {
		parent = real
	}
	if parent == filepath.Dir(dir) {
		return true
	}
	rel, err := filepath.Rel(dir, parent)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// existing returns the nearest ancestor of a path that exists, or the path itself.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
