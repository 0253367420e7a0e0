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

// fileSource is something of a configuration that files hold: a secret, or prices. Its
// files are read when the configuration is loaded, and looked at while it runs.
type fileSource struct {
	what     string // such as "the credential of upstream openai"
	paths    []string
	maxSize  int64 // bytes of a file
	readOnce bool  // a file is none that can be read twice, such as a pipe

	// take judges what the files hold and puts it into force, or says why not and
	// leaves everything as it was. changed is false where it was in force already.
	apply func(context.Context, contents) (changed bool, err error)

	mu       sync.Mutex
	inForce  digest    // of the files as they were when they were taken
	lastSeen digest    // at the last look
	refused  digest    // that take did not want
	retry    time.Time // when it is asked again about the same
	readAt   time.Time
	changed  time.Time // when something else came into force; zero: not since the start
	trouble  error     // why the files, as they are now, are not in force
}

// maxSecretFile bounds a file that holds a secret, in bytes.
const maxSecretFile = 64 << 10

// retryAfter is how soon what was refused is judged once more, though no file
// changed: it may have been for something else, such as a store that was closed.
const retryAfter = 30 * time.Second

// contents is what the files of a source held at one moment, by path.
type contents map[string]struct {
	text string
	err  error
}

// digest stands for contents, so that no more copies of a secret are kept than
// are needed.
type digest [sha256.Size]byte

// read reads all files. It may take as long as their disks want.
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
	if !s.readOnce { // what has become a pipe since would be waited for, and with it all files
		flags |= syscall.O_NONBLOCK
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
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

// of is what a file held.
func (c contents) of(path string) (string, error) { return c[path].text, c[path].err }

// load takes the files for the first time.
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

// check takes the files where they changed. What is being written is given time: a
// change is judged when the next look finds it as the one before left it.
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
			log.Info("a file is again as it was, and in force")
		}
		return
	case !settled, sum == s.refused && now.Before(s.retry), ctx.Err() != nil:
		return
	}
	s.mu.Unlock() // it may read the store
	changed, err := s.apply(ctx, files)
	s.mu.Lock()
	if err != nil {
		if ctx.Err() == nil && (sum != s.refused || s.trouble == nil || s.trouble.Error() != err.Error()) {
			log.Error("a file changed and is not taken: what was read before stays in force", zap.Error(err))
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

// state is what may be told of a source.
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

// fileKey is how a placeholder of a file begins.
const fileKey = "file."

// resolve fills in the placeholders of a text of the configuration as Caddy does,
// but with files as they were read here: whole, and at one moment.
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

// followFiles resolves texts of the configuration, takes them, and goes on to do so
// while their files change.
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

// addSource loads a source, and has its files looked at.
func (a *App) addSource(s *fileSource) error {
	if err := s.load(a.ctx); err != nil {
		return err
	}
	if len(s.paths) > 0 && !s.readOnce {
		a.sources = append(a.sources, s)
	}
	return nil
}
