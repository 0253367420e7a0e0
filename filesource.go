package till

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/till-proxy/till/admin/wire"
)

// fileSource is a part of the configuration that is kept in files: a secret, or prices.
// Its files are read when the configuration is loaded, and watched while it runs.
type fileSource struct {
	what     string // such as "the credential of upstream openai"
	paths    []string
	maxSize  int64 // bytes of one file
	readOnce bool  // a file cannot be read twice, such as a pipe

	// apply validates what the files hold and puts it into force, or returns an error
	// and leaves everything as it was. changed is false if it was in force already.
	apply func(context.Context, contents) (changed bool, err error)

	mu       sync.Mutex
	inForce  digest    // of the files as they were applied
	lastSeen digest    // at the last check
	refused  digest    // that apply rejected
	retry    time.Time // when to apply the same contents again
	readAt   time.Time
	changed  time.Time // when the value in force last changed; zero if not since the start
	trouble  error     // why the current files are not in force
}

const maxSecretFile = 64 << 10

// retryAfter is how soon rejected contents are tried again although no file changed:
// the reason may have been something else, such as a closed store.
const retryAfter = 30 * time.Second

// contents is what the files of a source held at one moment, by path.
type contents map[string]struct {
	text string
	err  error
}

// digest identifies contents, so that no more copies of a secret are kept than are
// needed.
type digest [sha256.Size]byte

// read reads all files. It takes as long as their disks need.
func (s *fileSource) read() (contents, digest) {
	files, sum := make(contents, len(s.paths)), sha256.New()
	for _, path := range s.paths {
		if _, ok := files[path]; ok {
			continue
		}
		file := files[path]
		file.text, file.err = s.readFile(path)
		files[path] = file
		fmt.Fprintf(sum, "%q %q %v\n", path, file.text, file.err)
	}
	return files, digest(sum.Sum(nil))
}

func (s *fileSource) readFile(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory", path)
	case s.readOnce && !info.Mode().IsRegular():
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	flags := os.O_RDONLY
	if !s.readOnce { // a file that has become a pipe must not block the others
		flags |= syscall.O_NONBLOCK
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was opened for reading
	if info, err = f.Stat(); err != nil {
		return "", err
	}
	if !s.readOnce && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, s.maxSize+1))
	switch {
	case err != nil:
		return "", err
	case int64(len(b)) > s.maxSize:
		return "", fmt.Errorf("%s is longer than %d bytes", path, s.maxSize)
	}
	return string(b), nil
}

func (c contents) of(path string) (string, error) { return c[path].text, c[path].err }

// load reads and applies the files for the first time.
func (s *fileSource) load(ctx context.Context) error {
	s.readOnce = slices.ContainsFunc(s.paths, func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && !info.Mode().IsRegular() && !info.IsDir()
	})
	files, sum := s.read()
	if _, err := s.apply(ctx, files); err != nil {
		return err
	}
	s.inForce, s.readAt = sum, time.Now()
	return nil
}

// check applies the files if they changed. To give a writer time to finish, a change is
// applied only when the next check finds the files the same.
func (s *fileSource) check(ctx context.Context, log *zap.Logger) {
	files, sum := s.read()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	settled := sum == s.lastSeen
	s.lastSeen, s.readAt = sum, now
	log = log.With(zap.String("what", s.what), zap.Strings("files", s.paths))
	switch {
	case sum == s.inForce:
		if s.trouble != nil {
			s.refused, s.trouble = digest{}, nil
			log.Info("a file is as it was before, and in force again")
		}
		return
	case !settled, sum == s.refused && now.Before(s.retry), ctx.Err() != nil:
		return
	}
	s.mu.Unlock() // apply may read the store
	changed, err := s.apply(ctx, files)
	s.mu.Lock()
	if err != nil {
		if ctx.Err() == nil && (sum != s.refused || s.trouble == nil || s.trouble.Error() != err.Error()) {
			log.Error("a changed file was rejected: its previous content stays in force", zap.Error(err))
		}
		s.refused, s.retry, s.trouble = sum, now.Add(retryAfter), err
		return
	}
	s.inForce, s.refused, s.trouble = sum, digest{}, nil
	if changed {
		s.changed = now
		log.Info("a file changed, and what it holds is in force")
	}
}

func (s *fileSource) state() wire.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := wire.File{What: s.what, Paths: s.paths, ReadAt: s.readAt.UTC()}
	if !s.changed.IsZero() {
		at := s.changed.UTC()
		f.ChangedAt = &at
	}
	if s.trouble != nil {
		f.Trouble = s.trouble.Error()
	}
	return f
}

const fileKey = "file."

// resolve replaces the placeholders of a text of the configuration as Caddy does, but
// with files as they were read here: whole, and all at one moment.
func (c contents) resolve(text string) (string, error) {
	var failed error
	others, repl := caddy.NewReplacer().WithoutFile(), caddy.NewEmptyReplacer()
	repl.Map(func(key string) (any, bool) {
		path, ok := strings.CutPrefix(key, fileKey)
		if !ok {
			return others.Get(key)
		}
		held, err := c.of(path)
		if err == nil && strings.TrimSpace(held) == "" {
			err = fmt.Errorf("%s is empty", path)
		}
		failed = errors.Join(failed, err)
		return strings.TrimSuffix(strings.TrimSuffix(held, "\n"), "\r"), true
	})
	value, err := repl.ReplaceOrErr(text, true, true)
	switch {
	case failed != nil:
		return "", failed
	case err != nil:
		return "", fmt.Errorf("%w; name a file, {file./path}, or a variable that is set where the server starts, {env.NAME}", err)
	}
	return value, nil
}

// followFiles resolves texts of the configuration and applies them, and does so again
// whenever their files change.
func (a *App) followFiles(what string, texts []string, take func(context.Context, []string) (changed bool, err error)) error {
	s := &fileSource{what: what, paths: filesIn(texts...), maxSize: maxSecretFile}
	s.apply = func(ctx context.Context, files contents) (bool, error) {
		values := make([]string, len(texts))
		for i, text := range texts {
			var err error
			if values[i], err = files.resolve(text); err != nil {
				return false, err
			}
		}
		return take(ctx, values)
	}
	return a.addSource(s)
}

func (a *App) addSource(s *fileSource) error {
	if err := s.load(a.ctx); err != nil {
		return err
	}
	if len(s.paths) > 0 && !s.readOnce {
		a.sources = append(a.sources, s)
	}
	return nil
}

// checkInterval is how often files are checked. Their contents are read, and not their
// dates: that works for files that are overwritten, moved into place, or reached by
// links that are switched, on every file system; and the files are few and small.
const checkInterval = time.Second

// stopTime is how long a check may go on after the app stops. A check that takes longer
// is waiting for a disk that does not answer, and applies nothing any more.
const stopTime = 2 * time.Second

// watch checks the files of the configuration until stopWatching is called.
func (a *App) watch() {
	if len(a.sources) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	a.stopWatching = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(stopTime):
		}
	}
	go func() {
		defer close(done)
		ticker := time.NewTicker(checkInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			for _, s := range a.sources {
				s.check(ctx, a.logger)
			}
		}
	}()
}

// Files lists the watched files of the configuration.
func (a *App) Files() []wire.File {
	var files []wire.File
	for _, s := range a.sources {
		files = append(files, s.state())
	}
	return files
}

// checkOverdue is the age of the last check at which it is reported.
const checkOverdue = time.Minute

// diagnoseSources finds files whose current content is not in force.
func (a *App) diagnoseSources(d *diagnosis) {
	for what, err := range a.doubtful() {
		d.warn("doubtful_secret", "write only the secret into its file, or leave it if this is intended", "%s %s", what, err)
	}
	for _, f := range a.Files() {
		switch {
		case f.Trouble != "":
			d.error("file_not_taken", "write all of it and move it into place: mv "+f.Paths[0]+".new "+f.Paths[0],
				"a change of %s is not taken: %s; what was read before stays in force until the server ends, and then it does not start", f.What, f.Trouble)
		case !f.ReadAt.IsZero() && time.Since(f.ReadAt) > checkOverdue:
			d.error("file_not_taken", "check the disk that it is on", "%s could not be read since %s, so no change of it is seen", f.What, f.ReadAt.Format(time.RFC3339))
		}
	}
}
