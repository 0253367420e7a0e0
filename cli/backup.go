package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/limiter"
)

func backupCommand(f *globalFlags) *cobra.Command {
	var withSeal bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Writes all keys and counts to a file, while the server runs",
		Long: `Writes a snapshot of the store to a new file with mode 0600 and a checksum, and
checks it. It holds no key strings and no credentials. With --with-seal it holds
the salts of sealed keys, without which nobody can open their boxes; keep the
seal key in another place.

With - it goes to standard output, and only the exit status says whether it is
complete.`,
		Example: `  caddy till backup till-$(date +%F).bak
  caddy till backup - | ssh vault 'cat > till.bak'`,
		Args: argCount(1, 1, "the new file, or -"),
		RunE: f.calling(func(cmd *cobra.Command, c *client, args []string) error {
			out, stream := cmd.OutOrStdout(), args[0] == "-"
			if file, ok := fileOf(out); stream && ok && term.IsTerminal(int(file.Fd())) {
				return usage("a backup is binary: name a file, or pipe it to a command: caddy till backup - | …")
			}
			path := "/backup"
			if withSeal {
				path += "?seal=true"
			}
			p := showProgress(cmd.ErrOrStderr(), "Backing up", inBytes)
			if stream {
				defer p.end()
				return c.pass(cmd.Context(), path, io.MultiWriter(underlying(out), p))
			}
			n, keys, err := c.save(cmd.Context(), path, args[0], p)
			p.end()
			if err != nil {
				return err
			}
			if f.json {
				return printValue(out, map[string]any{"file": args[0], "bytes": n, "keys": keys})
			}
			_, err = fmt.Fprintf(out, "%s holds %s, in %d bytes, and is complete.\n", args[0], prose.Counted(keys, "key"), n)
			return err
		}),
	}
	cmd.Flags().BoolVar(&withSeal, "with-seal", false, "include the salts of sealed keys")
	return cmd
}

// pass copies an answer as it arrives, and fails unless it was a complete backup.
func (c *client) pass(ctx context.Context, path string, to io.Writer) error {
	res, err := c.open(ctx, path)
	if err != nil {
		return err
	}
	defer res.Close() //nolint:errcheck // it was only read
	_, err = limiter.CheckBackup(io.TeeReader(res, to))
	return err
}

// save writes an answer of any length to a new file, and keeps the file only if it
// is a complete backup.
func (c *client) save(ctx context.Context, path, file string, progress io.Writer) (n, keys int64, err error) {
	err = writeNew(file, func(out *os.File) error {
		res, err := c.open(ctx, path)
		if err != nil {
			return err
		}
		defer res.Close() //nolint:errcheck // it was only read
		if n, err = io.Copy(io.MultiWriter(out, progress), res); err != nil {
			return fmt.Errorf("reading the answer of %s: %w", c.where, err)
		}
		if _, err = out.Seek(0, io.SeekStart); err != nil {
			return err
		}
		keys, err = limiter.CheckBackup(out)
		return err
	})
	return n, keys, err
}

// writeNew writes a new file, which gets its name only once it is complete.
func writeNew(file string, write func(*os.File) error) (err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s exists already: name another file", file), err)
	}
	partial := file + ".partial"
	out, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already, from a command that broke off or is still running: remove it, or name another file", partial)
	}
	if err != nil {
		return err
	}
	if err = write(out); err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(partial, file)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(partial))
	}
	return err
}

// progressReader is a file that shows as progress how far it was read.
type progressReader struct {
	io.ReadSeeker
	p *progress
}

func (f progressReader) Read(b []byte) (int, error) {
	n, err := f.ReadSeeker.Read(b)
	f.p.add(int64(n))
	return n, err
}

func (f progressReader) Seek(offset int64, whence int) (int64, error) {
	at, err := f.ReadSeeker.Seek(offset, whence)
	f.p.set(at)
	return at, err
}

// formerStringsNote says what a backup brings back besides counts.
func formerStringsNote(done limiter.Restored) string {
	if done.Suspended == 0 {
		return ""
	}
	return "What was rotated away or narrowed since is in force again: rotate or update such\nkeys before you resume them.\n"
}

// sealedKeysNote says what sealed keys need in addition to the store.
func sealedKeysNote(done limiter.Restored) (text string) {
	if done.Sealed > 0 {
		text += prose.Counted(done.Sealed, "sealed key") + ": first put back the seal key (seal.key) of that time.\n"
	}
	if done.Unsalted > 0 {
		text += prose.Counted(done.Unsalted, "sealed key") + " without a salt (see backup --with-seal), so none of their strings opens:\n" +
			"  caddy till rotate KEY --upstream-key - < REAL-KEY\n"
	}
	return text
}

func restoreCommand(f *globalFlags) *cobra.Command {
	var dir, anchor, config, adapter string
	var trust bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Makes a new store from a backup, while no server runs",
		Long: `Makes a new store from a backup. The entire file is checked before anything is
written, and the store must be empty: move the old one away, with its anchor.

Keys that were alive in the backup come back suspended, because it is not known
what was used or revoked since: look at each one, and resume or revoke it. If a
key was rotated since, its former string works again with it: rotate it again
before you resume it. With --trust all of them work at once, and can use again
what they have used since.

Admin tokens are revoked for the same reason: make new ones with caddy till
token create. With --trust they work, even those that were revoked since.

The Caddyfile (--config) says where the store and its anchor are; or give
--store and --anchor. With - the backup is read from standard input.

Run by root, it gives what it makes to the owner of the former store, if that is
beside it as NAME.old, and otherwise to the owner of the directory in which it
makes it, and says so: the store must belong to the server's user.`,
		Example: `  caddy till restore till-2026-11-24.bak --config /etc/caddy/Caddyfile
  caddy till restore till-2026-11-24.bak --store /var/lib/till`,
		Args: argCount(1, 1, "the backup, or -"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			switch {
			case (dir == "") == (config == ""):
				return usage("say where the store is: --config CADDYFILE, for the store and anchor that it names, or --store DIR")
			case config != "" && anchor != "":
				return usage("--anchor belongs to --store: with --config the Caddyfile names it")
			case config != "":
				if dir, anchor, err = placesIn(config, adapter); err != nil {
					return err
				}
			}
			file, err := backupFile(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			defer file.Close() //nolint:errcheck // it is only read
			info, err := file.Stat()
			if err != nil {
				return err
			}
			p := showProgress(cmd.ErrOrStderr(), "Restoring", inBytes)
			defer p.end()
			p.of(info.Size())
			backup := progressReader{file, p}
			if _, err := limiter.CheckBackup(backup); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if _, err := backup.Seek(0, io.SeekStart); err != nil {
				return err
			}
			if anchor == "" {
				anchor = filepath.Join(dir, "anchor")
			}
			pass, err := inherit(cmd.ErrOrStderr(), dir, anchor)
			if err != nil {
				return err
			}
			defer func() {
				if err == nil { // and the store is closed
					err = pass()
				}
			}()
			s, err := storePlace{inDirectory, dir}.open(cmd.Context(), "")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			done, err := limiter.Restore(limiter.Offline{Store: s, Anchor: anchor, Now: time.Now()}, limiter.Operator, backup, trust)
			p.end()
			if err != nil {
				return err
			}
			if f.json {
				return printValue(cmd.OutOrStdout(), map[string]any{
					"keys": done.Keys, "suspended": done.Suspended, "tokens_revoked": done.Tokens,
					"sealed": done.Sealed, "sealed_without_salt": done.Unsalted, "store": dir,
				})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s holds %s; %d that were alive are suspended: caddy till list --status suspended\n%s%s%s",
				dir, prose.Counted(done.Keys, "key"), done.Suspended, formerStringsNote(done), revokedTokensNote(done.Tokens), sealedKeysNote(done))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "store", "", "the store's directory")
	cmd.Flags().StringVar(&config, "config", "", "take the store and the anchor from this configuration file")
	cmd.Flags().StringVar(&adapter, "adapter", "", "its format, if the name of the file does not say it")
	cmd.Flags().StringVar(&anchor, "anchor", "", "the anchor, if it is not in the store's directory")
	cmd.Flags().BoolVar(&trust, "trust", false, "let living keys work at once")
	return cmd
}

// backupFile opens a backup. Standard input is first copied into a temporary file,
// because the entire backup is checked before any of it is used.
func backupFile(name string, in io.Reader) (*os.File, error) {
	if name != "-" {
		return os.Open(name)
	}
	file, err := os.CreateTemp("", "till-backup-*")
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(file, in)
	if err = errors.Join(err, os.Remove(file.Name())); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("standard input: %w", err), file.Close())
	}
	return file, nil
}

// placesIn reads where a configuration keeps its store and anchor. It provisions
// nothing, because the secrets of the configuration may be readable only by the
// server's user, or may not exist yet on a new machine.
func placesIn(config, adapter string) (store, anchor string, err error) {
	raw, _, _, err := caddycmd.LoadConfig(config, adapter)
	if err != nil {
		return "", "", err
	}
	var c struct {
		Apps struct {
			Till *struct {
				Store  struct{ Module, Path string }
				Anchor string
			}
		}
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", "", fmt.Errorf("%s: %w", config, err)
	}
	switch t := c.Apps.Till; {
	case t == nil:
		return "", "", fmt.Errorf("%s has no till app: add a till block to its global options", config)
	case t.Store.Module == string(inDatabase):
		return "", "", fmt.Errorf("%s keeps everything in a PostgreSQL database: put that back by its own means, such as pg_restore; to make a store in a directory from a backup, say --store DIR", config)
	case t.Store.Path == "":
		return "", "", fmt.Errorf("%s names no store, so it is in caddy/till in the data directory of the user that the server runs as (with till's unit: /var/lib/caddy/caddy/till): say --store DIR instead of --config", config)
	default:
		replacer := caddy.NewReplacer()
		if store, err = replacer.ReplaceOrErr(t.Store.Path, true, true); err == nil {
			anchor, err = replacer.ReplaceOrErr(t.Anchor, true, true)
		}
		if err != nil {
			return "", "", fmt.Errorf("%s: %w: say --store DIR, and --anchor PATH if that is elsewhere", config, err)
		}
		return store, anchor, nil
	}
}
